// ZO-AdaMU's probe and update on a device: the rule of core/adamu.h on N elements.
#pragma once

#include "../core/adamu.h"
#include "state_body.cuh"

namespace zk::cuda {

struct AdamuMove {
  using Real = uint32_t;
  static constexpr uint32_t kStates = 1;
  zk_adamu move;

  ZK_MEMBER bool writes_state() const { return move.update != 0; }

  template <class F, int N>
  ZK_MEMBER void apply(const Place& at, const StateDense&, uint32_t, const typename F::bits in[N],
                       uint32_t state[kMaxStates][N], typename F::bits out[N]) const {
    const auto r = AdamuRule<Scalar>::make(move.rule);
    typename F::real w[N];
    float n1[N], n2[N];
    draw_normals<N>(at, move.seed, kLaneZ, n1);
    draw_normals<N>(at, move.seed, kLaneSecond, n2);
    ZK_UNROLL
    for (int j = 0; j < N; ++j) {
      const auto d = adamu_direction<Scalar>(r, n1[j], n2[j], bits_float(state[0][j]));
      w[j] = static_cast<typename F::real>(move.decay) * F::value(in[j]);
      if (move.update) {
        w[j] = fused(move.displacement, d.now, w[j]);
        w[j] = fused(move.scale, adamu_step<Scalar>(r, d), w[j]);
        state[0][j] = float_bits(Scalar::mul(r.momentum_scale, d.now));
      } else {
        w[j] = fused(move.scale, d.now, w[j]);
      }
    }
    round_values<F, N>(at, move.seed, move.rounding, w, out);
  }
};

static_assert(sizeof(DenseStates<AdamuMove>) <= kParamBytes && sizeof(StridedStates<AdamuMove>) <= kParamBytes);

template <class Launch>
int plan_adamu(const zk_tensor* tensors, const zk_state* states, int64_t n_tensors, const zk_adamu& move,
               Launch&& launch) {
  return plan_states(tensors, states, 1, 4, n_tensors, AdamuMove{move}, [](int64_t) { return uint64_t(0); }, launch);
}

}  // namespace zk::cuda
