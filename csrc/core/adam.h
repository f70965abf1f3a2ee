// Adam, AdaMax and AdaMM on one gradient element, generic over the arithmetic A (scalar.h, cpu/vec_*.h).
//
//   g = fma(l2, w, g) unless l2 is 0 (an infinite weight would make it NaN); w: the weight
//   m = fma(beta1, m, (1-beta1) g)
//   adam:   v = fma(beta2, v, ((1-beta2) g) g)                       u = m / fma(root_scale, sqrt(v), eps)
//   adamm:  the same v, top = max(top, v)                            u = m / fma(root_scale, sqrt(top), eps)
//   adamax: v = max(beta2 v, |g| + eps)                              u = m / v
//   p = fma(-step_size, u, w)
//
// Every operation is rounded once; division and root correctly. Bytes an element: m, v and p (and top)
// read and written.
#pragma once

#include "../zokern.h"
#include "scalar.h"

namespace zk {

template <class A>
struct AdamRule {
  typename A::F beta1, rest1, beta2, rest2, minus_step, root_scale, eps, l2;

  ZK_INLINE AdamRule make(const zk_adam_rule& r) {
    return {A::broadcast(r.beta1),      A::broadcast(r.rest1),      A::broadcast(r.beta2), A::broadcast(r.rest2),
            A::broadcast(-r.step_size), A::broadcast(r.root_scale), A::broadcast(r.eps),   A::broadcast(r.l2)};
  }
};

// The direction u; the state moves on. `top` is read and written by adamm alone.
template <class A, int Variant>
ZK_INLINE typename A::F adam_direction(const AdamRule<A>& r, typename A::F g, typename A::F& m, typename A::F& v,
                                       typename A::F& top) {
  m = A::fma(r.beta1, m, A::mul(r.rest1, g));
  if (Variant == ZK_ADAMAX) {
    v = A::max(A::mul(r.beta2, v), A::add(A::abs(g), r.eps));
    return A::div(m, v);
  }
  v = A::fma(r.beta2, v, A::mul(A::mul(r.rest2, g), g));
  if (Variant == ZK_ADAMM) top = A::max(top, v);
  return A::div(m, A::fma(r.root_scale, A::sqrt(Variant == ZK_ADAMM ? top : v), r.eps));
}

}  // namespace zk
