// The adaptive-moment update, generic over the instruction set V (the formula: core/adam.h).
//
// One seed streams: parameters and state are read, the normals made, everything written, with prefetch.
// Of several seeds, all but the last are summed in L1-sized buffers first: w and g of a strip.
// One seed, fp32, two threads: 1.12 to 1.18 times the bare reads and writes with AVX-512, 1.33 to 1.43 with AVX2
// (benchmarks/bench_state.py, a 2-core Xeon, Nov 2026): memory is what limits it.
#pragma once

#include "../core/adam.h"
#include "adam_kernels.h"
#include "state_body.h"

namespace zk {
namespace {

// The last term and the rule: w = fma(displacement, z, decay * w), g = fma(grad, z, sums).
struct LastTerm {
  const Schedule& noise;
  float grad, displacement, decay;
  const float* sums;  // of the gradient so far
  int64_t step;       // from one tile of sums to the next
};

template <class V, int Noise, int Variant>
__attribute__((noinline)) void adam_strip(const zk_adam_rule& rule, const LastTerm& last, const Strip& strip) {
  using A = Arithmetic<V>;
  using F = typename V::F;
  const auto r = AdamRule<A>::make(rule);
  const F grad = V::broadcast(last.grad), displacement = V::broadcast(last.displacement);
  const F decay = V::broadcast(last.decay);
  const auto decays = V::word(rule.l2 != 0.0f ? 0x80000000u : 0u);
  const float *in = strip.in, *sums = last.sums;
  float *out = strip.out, *m = strip.states[0], *v = strip.states[1], *top = strip.states[2];
  for (int64_t t = 0; t < strip.n_tiles; ++t) {
    fetch_ahead<kTile * 4, false>(in);
    fetch_ahead<kTile * 4, false>(m);
    fetch_ahead<kTile * 4, false>(v);
    if (Variant == ZK_ADAMM) fetch_ahead<kTile * 4, false>(top);
    auto part = [&](int e, F z) __attribute__((always_inline)) {
      const F w = V::fma(displacement, z, V::mul(decay, V::load(in + e)));
      F g = V::fma(grad, z, V::load(sums + e));
      g = V::template select<31>(decays, V::fma(r.l2, w, g), g);
      F m_ = V::load(m + e), v_ = V::load(v + e), top_ = v_;
      if (Variant == ZK_ADAMM) top_ = V::load(top + e);
      const F u = adam_direction<A, Variant>(r, g, m_, v_, top_);
      V::store(m + e, m_), V::store(v + e, v_);
      if (Variant == ZK_ADAMM) V::store(top + e, top_);
      V::store(out + e, V::fma(r.minus_step, u, w));
    };
    noise_tile<V, Noise>(last.noise, strip.tile + static_cast<uint64_t>(t),
                         [&](int e, F a, F b) __attribute__((always_inline)) { part(e, a), part(e + V::kLanes, b); });
    in += kTile, out += kTile, m += kTile, v += kTile, sums += last.step;
    if (Variant == ZK_ADAMM) top += kTile;
  }
}

// w = fma(displacement, z, w), g = fma(grad, z, g)
template <class V, int Noise>
__attribute__((noinline)) void add_term(const Schedule& noise, uint64_t tile, int64_t n_tiles, float grad_,
                                        float displacement_, float* w, float* g) {
  const auto grad = V::broadcast(grad_), displacement = V::broadcast(displacement_);
  for (int64_t t = 0; t < n_tiles; ++t, w += kTile, g += kTile) {
    auto part = [&](int e, typename V::F z) __attribute__((always_inline)) {
      V::store(w + e, V::fma(displacement, z, V::load(w + e)));
      V::store(g + e, V::fma(grad, z, V::load(g + e)));
    };
    noise_tile<V, Noise>(noise, tile + static_cast<uint64_t>(t),
                         [&](int e, typename V::F a, typename V::F b)
                             __attribute__((always_inline)) { part(e, a), part(e + V::kLanes, b); });
  }
}

template <class V, int Dtype, int Noise>
void run_adam(const zk_adam& move, const Run& run) {
  alignas(64) static constexpr float kZeros[kTile] = {};
  const auto rule = move.variant == ZK_ADAM     ? adam_strip<V, Noise, ZK_ADAM>
                    : move.variant == ZK_ADAMAX ? adam_strip<V, Noise, ZK_ADAMAX>
                                                : adam_strip<V, Noise, ZK_ADAMM>;
  const int64_t before = move.count - 1;
  const Schedule noise(move.seeds[before], run.stream, kLaneZ);
  LastTerm last{noise, move.grads[before], move.displacements[before], move.decay, kZeros, 0};
  in_strips<V, Dtype>(run, move.rounding, move.seeds[0], [&](Strip& strip) {
    if (!before) return rule(move.rule, last, strip);
    alignas(64) float w[kStrip], g[kStrip];
    const int64_t n = strip.n_tiles * kTile;
    for (int64_t e = 0; e < n; ++e) w[e] = move.decay * strip.in[e], g[e] = 0.0f;
    for (int64_t k = 0; k < before; ++k) {
      const Schedule s(move.seeds[k], run.stream, kLaneZ);
      add_term<V, Noise>(s, strip.tile, strip.n_tiles, move.grads[k], move.displacements[k], w, g);
    }
    last.decay = 1.0f, last.sums = g, last.step = kTile;
    strip.in = w;
    rule(move.rule, last, strip);
  });
}

// float64 parameters, fp32 gradient and state
template <class V, int Noise>
void run_adam_f64(const zk_adam& move, const Run& run) {
  const auto r = AdamRule<Scalar>::make(move.rule);
  for (int64_t t = 0; t < run.n_tiles; ++t) {
    const double* src = static_cast<const double*>(run.src) + t * kTile;
    double* dst = static_cast<double*>(run.dst) + t * kTile;
    float *m = static_cast<float*>(run.states[0]) + t * kTile, *v = static_cast<float*>(run.states[1]) + t * kTile;
    float* top = move.variant == ZK_ADAMM ? static_cast<float*>(run.states[2]) + t * kTile : nullptr;
    double w[kTile];
    alignas(64) float g[kTile] = {}, z[kTile];
    for (int e = 0; e < kTile; ++e) w[e] = static_cast<double>(move.decay) * src[e];
    for (int64_t k = 0; k < move.count; ++k) {
      draw_tile<V, Noise>(Schedule(move.seeds[k], run.stream, kLaneZ), run.tile + static_cast<uint64_t>(t), z);
      for (int e = 0; e < kTile; ++e) {
        w[e] += static_cast<double>(move.displacements[k]) * z[e];
        g[e] = fma_rn(move.grads[k], z[e], g[e]);
      }
    }
    for (int e = 0; e < kTile; ++e) {
      float unused = 0.0f, u;
      const float gradient = r.l2 != 0.0f ? fma_rn(r.l2, static_cast<float>(w[e]), g[e]) : g[e];
      if (move.variant == ZK_ADAM)
        u = adam_direction<Scalar, ZK_ADAM>(r, gradient, m[e], v[e], unused);
      else if (move.variant == ZK_ADAMAX)
        u = adam_direction<Scalar, ZK_ADAMAX>(r, gradient, m[e], v[e], unused);
      else
        u = adam_direction<Scalar, ZK_ADAMM>(r, gradient, m[e], v[e], top[e]);
      dst[e] = w[e] + static_cast<double>(r.minus_step) * u;
    }
  }
}

template <class V>
constexpr AdamTable make_adam_table() {
  AdamTable table{};
#define ZK_ROW(NOISE)                                      \
  table.run[ZK_F32][NOISE] = run_adam<V, ZK_F32, NOISE>;   \
  table.run[ZK_BF16][NOISE] = run_adam<V, ZK_BF16, NOISE>; \
  table.run[ZK_F16][NOISE] = run_adam<V, ZK_F16, NOISE>;   \
  table.run[ZK_F64][NOISE] = run_adam_f64<V, NOISE>;
  ZK_ROW(ZK_GAUSSIAN)
  ZK_ROW(ZK_RADEMACHER)
#undef ZK_ROW
  return table;
}

}  // namespace
}  // namespace zk
