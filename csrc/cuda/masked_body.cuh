// The masked move on a device: perturb's arithmetic on N elements, kept where the mask says so.
#pragma once

#include "../core/masked.h"
#include "state_body.cuh"

namespace zk::cuda {

struct MaskedMove {
  using Real = uint8_t;
  static constexpr uint32_t kStates = 1;
  int32_t count, distribution, rounding;
  float decay;
  const Term* more;
  Term terms[kParamTerms];

  ZK_MEMBER bool writes_state() const { return false; }

  template <class F, int N>
  ZK_MEMBER void apply(const Place& at, const StateDense& entry, uint32_t masks, const typename F::bits in[N],
                       uint8_t state[kMaxStates][N], typename F::bits out[N]) const {
    using bits = typename F::bits;
    typename F::real w[N];
    ZK_UNROLL
    for (int j = 0; j < N; ++j) w[j] = decay == 0.0f ? 0 : static_cast<typename F::real>(decay) * F::value(in[j]);
    ZK_NO_UNROLL
    for (int32_t k = 0; k < count; ++k) {
      const Term term = more ? more[k] : terms[k];
      float z[N];
      if (distribution == ZK_RADEMACHER)
        draw_signs<N>(at, seed_of(term), z);
      else
        draw_normals<N>(at, seed_of(term), kLaneZ, z);
      ZK_UNROLL
      for (int j = 0; j < N; ++j) w[j] = fused(term.scale, z[j], w[j]);
    }
    round_values<F, N>(at, count ? seed_of(more ? more[0] : terms[0]) : 0, rounding, w, out);
    ZK_UNROLL
    for (int j = 0; j < N; ++j) {
      const bool chosen = masks ? state[0][j] != 0 : is_small<bits>(in[j], static_cast<bits>(entry.limit));
      out[j] = chosen ? out[j] : in[j];
    }
  }
};

static_assert(sizeof(DenseStates<MaskedMove>) <= kParamBytes && sizeof(StridedStates<MaskedMove>) <= kParamBytes);

template <class Launch>
int plan_masked(const zk_tensor* tensors, const zk_state* masks, const float* thresholds, int64_t n_tensors,
                const zk_move& move, const Term* more, Launch&& launch) {
  MaskedMove m{static_cast<int32_t>(move.count), move.distribution, move.rounding, move.decay, more, {}};
  if (!more)
    for (int64_t k = 0; k < move.count; ++k) m.terms[k] = make_term(move.seeds[k], move.scales[k]);
  const auto limit = [&](int64_t i) { return masks ? 0 : magnitude_limit(thresholds[i], tensors[i].dtype); };
  return plan_states(tensors, masks, masks ? 1 : 0, 1, n_tensors, m, limit, launch);
}

}  // namespace zk::cuda
