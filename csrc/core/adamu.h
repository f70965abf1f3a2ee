// ZO-AdaMU's direction on one element, generic over the arithmetic A (scalar.h, cpu/vec_*.h).
//
//   a = root_alpha n1      b = fma(root_rest, n2, m)      m_t = fma(beta1, a, (1-beta1) b)
//   v = fma(beta2 a, a, ((1-beta2) b) b)                  u = m_t / sqrt(v + sigma)
//
// n1, n2: lanes 0 and 1 of one seed. A probe moves p along m_t and leaves m; the update moves p along u
// and stores momentum_scale * m_t.
#pragma once

#include "../zokern.h"
#include "scalar.h"

namespace zk {

template <class A>
struct AdamuRule {
  typename A::F root_alpha, root_rest, beta1, rest1, beta2, rest2, sigma, momentum_scale;

  ZK_INLINE AdamuRule make(const zk_adamu_rule& r) {
    return {A::broadcast(r.root_alpha), A::broadcast(r.root_rest),     A::broadcast(r.beta1),
            A::broadcast(r.rest1),      A::broadcast(r.beta2),         A::broadcast(r.rest2),
            A::broadcast(r.sigma),      A::broadcast(r.momentum_scale)};
  }
};

template <class A>
struct AdamuDirection {
  typename A::F now, gradient, past;  // m_t, a, b
};

template <class A>
ZK_INLINE AdamuDirection<A> adamu_direction(const AdamuRule<A>& r, typename A::F n1, typename A::F n2,
                                            typename A::F m) {
  AdamuDirection<A> d;
  d.gradient = A::mul(r.root_alpha, n1);
  d.past = A::fma(r.root_rest, n2, m);
  d.now = A::fma(r.beta1, d.gradient, A::mul(r.rest1, d.past));
  return d;
}

template <class A>
ZK_INLINE typename A::F adamu_step(const AdamuRule<A>& r, const AdamuDirection<A>& d) {
  const auto v = A::fma(A::mul(r.beta2, d.gradient), d.gradient, A::mul(A::mul(r.rest2, d.past), d.past));
  return A::div(d.now, A::sqrt(A::add(v, r.sigma)));
}

}  // namespace zk
