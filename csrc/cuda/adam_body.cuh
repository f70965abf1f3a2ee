// The adaptive-moment update on a device: the rule of core/adam.h on N elements.
#pragma once

#include "../core/adam.h"
#include "state_body.cuh"

namespace zk::cuda {

struct AdamMove {
  using Real = uint32_t;
  static constexpr uint32_t kStates = 3;
  int32_t count, variant, distribution, rounding;
  float decay;
  zk_adam_rule rule;
  const Term* more;
  Term terms[kParamTerms];

  ZK_MEMBER bool writes_state() const { return true; }

  template <int Variant, class F, int N>
  ZK_MEMBER void step(const float g[N], typename F::real w[N], uint32_t state[kMaxStates][N]) const {
    const auto r = AdamRule<Scalar>::make(rule);
    ZK_UNROLL
    for (int j = 0; j < N; ++j) {
      float m = bits_float(state[0][j]), v = bits_float(state[1][j]), top = bits_float(state[2][j]);
      const float gradient = r.l2 != 0.0f ? fma_rn(r.l2, static_cast<float>(w[j]), g[j]) : g[j];
      w[j] = fused(r.minus_step, adam_direction<Scalar, Variant>(r, gradient, m, v, top), w[j]);
      state[0][j] = float_bits(m), state[1][j] = float_bits(v);
      if (Variant == ZK_ADAMM) state[2][j] = float_bits(top);
    }
  }

  template <class F, int N>
  ZK_MEMBER void apply(const Place& at, const StateDense&, uint32_t, const typename F::bits in[N],
                       uint32_t state[kMaxStates][N], typename F::bits out[N]) const {
    typename F::real w[N];
    float g[N];
    ZK_UNROLL
    for (int j = 0; j < N; ++j) w[j] = static_cast<typename F::real>(decay) * F::value(in[j]), g[j] = 0.0f;
    ZK_NO_UNROLL
    for (int32_t k = 0; k < count; ++k) {
      const Term term = more ? more[k] : terms[k];
      float z[N];
      if (distribution == ZK_RADEMACHER)
        draw_signs<N>(at, seed_of(term), z);
      else
        draw_normals<N>(at, seed_of(term), kLaneZ, z);
      ZK_UNROLL
      for (int j = 0; j < N; ++j) w[j] = fused(term.second, z[j], w[j]), g[j] = fma_rn(term.scale, z[j], g[j]);
    }
    if (variant == ZK_ADAM)
      step<ZK_ADAM, F, N>(g, w, state);
    else if (variant == ZK_ADAMAX)
      step<ZK_ADAMAX, F, N>(g, w, state);
    else
      step<ZK_ADAMM, F, N>(g, w, state);
    round_values<F, N>(at, seed_of(more ? more[0] : terms[0]), rounding, w, out);
  }
};

static_assert(sizeof(DenseStates<AdamMove>) <= kParamBytes && sizeof(StridedStates<AdamMove>) <= kParamBytes);

inline Term adam_term(const zk_adam& move, int64_t k) {
  return make_term(move.seeds[k], move.grads[k], move.displacements[k]);
}

template <class Launch>
int plan_adam(const zk_tensor* tensors, const zk_state* states, int64_t n_tensors, const zk_adam& move,
              const Term* more, Launch&& launch) {
  AdamMove m{static_cast<int32_t>(move.count),
             move.variant,
             move.distribution,
             move.rounding,
             move.decay,
             move.rule,
             more,
             {}};
  if (!more)
    for (int64_t k = 0; k < move.count; ++k) m.terms[k] = adam_term(move, k);
  const int count = move.variant == ZK_ADAMM ? 3 : 2;
  return plan_states(tensors, states, count, 4, n_tensors, m, [](int64_t) { return uint64_t(0); }, launch);
}

}  // namespace zk::cuda
