// Tensor-train linear layers: the shapes of a contraction, and the activations of an adapter.
//
// A layer of cores G_i [r_{i-1}, k_i, r_i], the first `split` on the input side. Two cuts choose the
// grouping; the weight is never formed:
//
//   x as [I, K]:  t[b, k] = sum_i left[i, b] x[i, k]         left   [I, p]     cores [0, in_cut)
//                 s[c]    = sum_bk t[b, k] middle[b, k, c]   middle [p, K, r]  cores [in_cut, split)
//                 u[j, d] = sum_c s[c] outer[c, j, d]        outer  [r, J, q]  cores [split, out_cut)
//   y as [J, Q]:  y[j, k] = sum_d u[j, d] right[d, k]        right  [q, Q]     cores [out_cut, n)
//
// in_cut = 0 leaves out the first line (K = in, t = x), out_cut = split the third (Q = out, u = s):
// both left out is the bipartite form y = (x A) B, one the tripartite, none the quadripartite.
// Source: AdaZeta (arXiv:2406.18060), section 3.2; cutting before the last core of the larger side is
// ours: at 4096 -> 64, rank 5, it makes the contraction of the cores 13 times cheaper and leaves the
// uncontracted mode as the vector.
#pragma once

#include "../zokern.h"
#include "philox.h"

namespace zk {

struct TtShape {
  int64_t in, out, rank;                 // sizes, and the rank at the split
  int64_t in_rows, in_cols, in_rank;     // I, K, p
  int64_t out_rows, out_cols, out_rank;  // J, Q, q

  explicit TtShape(const zk_tt& t) {
    auto product = [&](int first, int last) {
      int64_t n = 1;
      for (int i = first; i < last; ++i) n *= t.modes[i];
      return n;
    };
    in_rows = product(0, t.in_cut), in_cols = product(t.in_cut, t.split), in_rank = t.ranks[t.in_cut];
    out_rows = product(t.split, t.out_cut), out_cols = product(t.out_cut, t.n_cores), out_rank = t.ranks[t.out_cut];
    in = in_rows * in_cols, out = out_rows * out_cols, rank = t.ranks[t.split];
  }
  // multiply-adds of one row
  int64_t row_work() const {
    return (in_rows > 1 ? in * in_rank : 0) + in_rank * in_cols * rank +
           (out_rows > 1 ? rank * out_rows * out_rank : 0) + out * out_rank;
  }
};

// --- activations, generic over a vector V (cpu/vec_*.h). Fitted as minimax polynomials in float64, 2026;
// errors below are exhaustive-grid maxima of the fp32 evaluation.

template <class V, int N>
ZK_INLINE typename V::F polynomial(typename V::F x, const float (&c)[N]) {
  auto sum = V::broadcast(c[N - 1]);
  for (int k = N - 2; k >= 0; --k) sum = V::fma(sum, x, V::broadcast(c[k]));
  return sum;
}

template <class V>
ZK_INLINE typename V::F absolute(typename V::F x) {
  return V::as_floats(V::and_or(V::as_words(x), 0x7fffffffu, 0u));
}

// e^x within 1 ulp on [-87.33, 88.37], clamped to it; NaN passes (min and max give their second argument).
template <class V>
ZK_INLINE typename V::F exponential(typename V::F x) {
  constexpr float kPolynomial[] = {0x1.000000p-1f, 0x1.555486p-3f, 0x1.555454p-5f, 0x1.124148p-7f, 0x1.6dbc64p-10f};
  constexpr float kRound = 12582912.0f;  // 1.5 * 2^23: the sum's low bits are the rounded integer
  x = V::min(V::broadcast(88.37f), V::max(V::broadcast(-87.33f), x));
  const auto shifted = V::fma(x, V::broadcast(0x1.715476p+0f), V::broadcast(kRound));
  const auto n = V::sub(shifted, V::broadcast(kRound));
  auto r = V::fma(n, V::broadcast(-0x1.62e430p-1f), x);
  r = V::fma(n, V::broadcast(0x1.05c610p-29f), r);
  const auto power = V::as_floats(V::add(V::template shift_left<23>(V::as_words(shifted)), V::word(0x3f800000u)));
  return V::mul(V::add(V::fma(V::mul(r, r), polynomial<V>(r, kPolynomial), r), V::broadcast(1.0f)), power);
}

template <class V>
ZK_INLINE typename V::F silu(typename V::F x) {
  const auto negative = V::as_floats(V::xor_masked(V::as_words(x), V::word(0x80000000u), 0x80000000u));
  return V::div(x, V::add(V::broadcast(1.0f), exponential<V>(negative)));
}

template <class V>
ZK_INLINE typename V::F hyperbolic_tangent(typename V::F x) {
  constexpr float kPolynomial[] = {-0x1.555534p-2f, 0x1.110768p-3f, -0x1.b84448p-5f, 0x1.5256cep-6f, -0x1.76abf6p-8f};
  const auto size = absolute<V>(x), square = V::mul(x, x);
  const auto small = V::fma(V::mul(x, square), polynomial<V>(square, kPolynomial), x);
  const auto power = V::add(exponential<V>(V::add(size, size)), V::broadcast(1.0f));
  const auto large = V::sub(V::broadcast(1.0f), V::div(V::broadcast(2.0f), power));
  return V::select_below(size, V::broadcast(0.625f), small,
                         V::as_floats(V::xor_masked(V::as_words(large), V::as_words(x), 0x80000000u)));
}

// x Phi(x), the exact (erf) form: Phi(-a) = e^(-a^2/2) q(1 / (1 + a/4)), relative error 4e-7 on [0, 6].
template <class V>
ZK_INLINE typename V::F gelu(typename V::F x) {
  constexpr float kPolynomial[] = {0x1.82b4bcp-4f, 0x1.5cf97ep-2f, 0x1.fd7510p-2f,  0x1.25b604p-1f,  0x1.f9b248p-2f,
                                   0x1.1673bap-2f, 0x1.0811f0p-5f, -0x1.58d4e0p-4f, -0x1.63ac6ap-5f, 0x1.1617cep-5f};
  const auto size = absolute<V>(x), one = V::broadcast(1.0f);
  const auto t = V::sub(V::div(one, V::fma(size, V::broadcast(0.25f), one)), V::broadcast(0.5f));
  const auto tail =
      V::mul(exponential<V>(V::mul(V::mul(size, size), V::broadcast(-0.5f))), polynomial<V>(t, kPolynomial));
  return V::mul(x, V::select_below(x, V::broadcast(0.0f), tail, V::sub(one, tail)));
}

template <class V>
ZK_INLINE typename V::F activate(typename V::F x, int activation) {
  switch (activation) {
    case ZK_RELU:
      return V::max(V::broadcast(0.0f), x);
    case ZK_GELU:
      return gelu<V>(x);
    case ZK_SILU:
      return silu<V>(x);
    case ZK_TANH:
      return hyperbolic_tangent<V>(x);
    default:
      return x;
  }
}

}  // namespace zk
