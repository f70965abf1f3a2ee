// ZO-AdaMU's probe and update, generic over the instruction set V (the formula: core/adamu.h).
//
// fp32, two threads, over the bare reads and writes of both arrays: the update 1.95 times with AVX-512 and 3.06
// with AVX2, the probe 1.55 and 2.82 (benchmarks/bench_state.py, a 2-core Xeon, Nov 2026): the two normals
// limit it, not memory.
#pragma once

#include "../core/adamu.h"
#include "adamu_kernels.h"
#include "state_body.h"

namespace zk {
namespace {

template <class V, bool Update>
__attribute__((noinline)) void adamu_strip(const zk_adamu& move, const Schedule noise[2], const Strip& strip) {
  using A = Arithmetic<V>;
  using F = typename V::F;
  const auto r = AdamuRule<A>::make(move.rule);
  const F scale = V::broadcast(move.scale), displacement = V::broadcast(move.displacement);
  const F decay = V::broadcast(move.decay);
  const float* in = strip.in;
  float *out = strip.out, *m = strip.states[0];
  for (int64_t t = 0; t < strip.n_tiles; ++t, in += kTile, out += kTile, m += kTile) {
    const uint64_t tile = strip.tile + static_cast<uint64_t>(t);
    fetch_ahead<kTile * 4, false>(in);
    fetch_ahead<kTile * 4, false>(m);
    alignas(64) float first[kTile];
    noise_tile<V, ZK_GAUSSIAN>(noise[0], tile, [&](int e, F a, F b) __attribute__((always_inline)) {
      V::store(first + e, a), V::store(first + e + V::kLanes, b);
    });
    auto part = [&](int e, F n2) __attribute__((always_inline)) {
      const auto d = adamu_direction<A>(r, V::load(first + e), n2, V::load(m + e));
      const F w = V::mul(decay, V::load(in + e));
      if (Update) {
        V::store(m + e, V::mul(r.momentum_scale, d.now));
        V::store(out + e, V::fma(scale, adamu_step<A>(r, d), V::fma(displacement, d.now, w)));
      } else {
        V::store(out + e, V::fma(scale, d.now, w));
      }
    };
    noise_tile<V, ZK_GAUSSIAN>(
        noise[1], tile, [&](int e, F a, F b) __attribute__((always_inline)) { part(e, a), part(e + V::kLanes, b); });
  }
}

template <class V, int Dtype, bool Update>
void run_adamu(const zk_adamu& move, const Run& run) {
  const Schedule noise[2] = {{move.seed, run.stream, kLaneZ}, {move.seed, run.stream, kLaneSecond}};
  in_strips<V, Dtype>(run, move.rounding, move.seed,
                      [&](const Strip& strip) { adamu_strip<V, Update>(move, noise, strip); });
}

// float64 parameters, fp32 direction and state
template <class V, bool Update>
void run_adamu_f64(const zk_adamu& move, const Run& run) {
  const auto r = AdamuRule<Scalar>::make(move.rule);
  for (int64_t t = 0; t < run.n_tiles; ++t) {
    const double* src = static_cast<const double*>(run.src) + t * kTile;
    double* dst = static_cast<double*>(run.dst) + t * kTile;
    float* m = static_cast<float*>(run.states[0]) + t * kTile;
    alignas(64) float n[2][kTile];
    for (uint32_t lane = 0; lane < 2; ++lane) {
      draw_tile<V, ZK_GAUSSIAN>(Schedule(move.seed, run.stream, lane), run.tile + static_cast<uint64_t>(t), n[lane]);
    }
    for (int e = 0; e < kTile; ++e) {
      const auto d = adamu_direction<Scalar>(r, n[0][e], n[1][e], m[e]);
      double w = static_cast<double>(move.decay) * src[e];
      if (Update) {
        w += static_cast<double>(move.displacement) * d.now;
        w += static_cast<double>(move.scale) * adamu_step<Scalar>(r, d);
        m[e] = r.momentum_scale * d.now;
      } else {
        w += static_cast<double>(move.scale) * d.now;
      }
      dst[e] = w;
    }
  }
}

template <class V>
constexpr AdamuTable make_adamu_table() {
  return {{{run_adamu<V, ZK_F32, false>, run_adamu<V, ZK_F32, true>},
           {run_adamu<V, ZK_BF16, false>, run_adamu<V, ZK_BF16, true>},
           {run_adamu<V, ZK_F16, false>, run_adamu<V, ZK_F16, true>},
           {run_adamu_f64<V, false>, run_adamu_f64<V, true>}}};
}

}  // namespace
}  // namespace zk
