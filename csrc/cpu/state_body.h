// What passes over parameters with fp32 state share, generic over the instruction set V.
//
// The arithmetic runs on fp32 strips of up to 16 tiles: those of fp32 parameters are memory itself, 16-bit
// parameters are widened into an L1-sized buffer and rounded back from it. So each rule is compiled once,
// not once a dtype and rounding. float64 parameters go element by element: their state is fp32.
#pragma once

#include <cmath>

#include "ahead.h"
#include "elements.h"
#include "tiles.h"

namespace zk {
namespace {

constexpr int kStrip = kStripTiles * kTile;

// V, with the operations that the rules of core/ need and the stream does not
template <class V>
struct Arithmetic : V {
  ZK_INLINE typename V::F abs(typename V::F a) { return V::as_floats(V::and_(V::as_words(a), V::word(0x7fffffffu))); }
};

// Calls sink(e, a, b) with the tile's values in natural order: a from e, b from e + kLanes.
template <class V, int Noise, class Sink>
ZK_INLINE void noise_tile(const Schedule& s, uint64_t tile, Sink&& sink) {
  auto ordered = [&](int e, typename V::F z0, typename V::F z1) __attribute__((always_inline)) {
    Elements<V, ZK_F32>::order(z0, z1);
    sink(e, z0, z1);
  };
  if (Noise == ZK_GAUSSIAN)
    gaussian_tile<V>(s, tile, ordered);
  else
    rademacher_tile<V>(s, tile, ordered);
}

template <class V, int Noise>
__attribute__((noinline)) void draw_tile(const Schedule& s, uint64_t tile, float* z) {
  noise_tile<V, Noise>(s, tile, [&](int e, typename V::F a, typename V::F b) __attribute__((always_inline)) {
    V::store(z + e, a), V::store(z + e + V::kLanes, b);
  });
}

template <class V, int Dtype>
__attribute__((noinline)) void widen(const uint16_t* from, float* to, int64_t n) {
  for (int64_t i = 0; i < n; i += V::kLanes) {
    V::store(to + i, Dtype == ZK_BF16 ? V::load_bf16(from + i) : V::load_half(from + i));
  }
}

// A NaN without payload: the integer roundings below could carry a payload into the sign.
template <class V>
ZK_INLINE typename V::F plain_nan(typename V::F f) {
  const auto u = V::as_words(f);
  const auto size = V::as_floats(V::and_(u, V::word(0x7fffffffu)));
  return V::select_below(size, V::broadcast(INFINITY), f, V::as_floats(V::and_(u, V::word(0xffc00000u))));
}

// `random`: 16 bits an element, or null to round to nearest.
template <class V, int Dtype>
__attribute__((noinline)) void narrow(const float* from, uint16_t* to, const uint16_t* random, int64_t n) {
  for (int64_t i = 0; i < n; i += 2 * V::kLanes) {
    const auto a = plain_nan<V>(V::load(from + i)), b = plain_nan<V>(V::load(from + i + V::kLanes));
    if (Dtype == ZK_F16) {
      if (random)
        Elements<V, ZK_F16>::store_stochastic(to + i, a, b, V::load_pairs(random + i));
      else
        Elements<V, ZK_F16>::store(to + i, a, b);
    } else {
      ZK_UNROLL
      for (int half = 0; half < 2; ++half) {
        const int64_t at = i + half * V::kLanes;
        const auto u = V::as_words(half ? b : a);
        const auto odd = V::and_(V::template shift_right<16>(u), V::word(1u));
        const auto up = random ? V::template shift_right<16>(V::as_words(V::load_bf16(random + at)))
                               : V::add(odd, V::word(0x7fffu));
        V::store_high_halves(to + at, V::add(u, up));
      }
    }
  }
}

// Up to kStripTiles tiles: parameters read from `in`, written to `out` (which may be the same), state.
struct Strip {
  uint64_t tile;
  int64_t n_tiles;
  const float* in;
  float* out;
  float* states[kMaxStates];
};

// Calls body(strip) along the run; 16-bit parameters are rounded under `key` where `rounding` says so.
template <class V, int Dtype, class Body>
ZK_INLINE void in_strips(const Run& run, int rounding, uint64_t key, const Body& body) {
  using T = typename Elements<V, Dtype>::T;
  const Schedule bits(key, run.stream, kLaneRounding);
  for (int64_t done = 0; done < run.n_tiles; done += kStripTiles) {
    const int64_t n = run.n_tiles - done < kStripTiles ? run.n_tiles - done : kStripTiles, first = done * kTile;
    Strip strip{run.tile + static_cast<uint64_t>(done), n, nullptr, nullptr, {}};
    for (int s = 0; s < kMaxStates; ++s) {
      if (run.states[s]) strip.states[s] = static_cast<float*>(run.states[s]) + first;
    }
    const T* src = static_cast<const T*>(run.src) + first;
    T* dst = static_cast<T*>(run.dst) + first;
    if constexpr (Dtype == ZK_F32) {
      strip.in = src, strip.out = dst;
      body(strip);
    } else {
      alignas(64) float values[kStrip];
      strip.in = strip.out = values;
      widen<V, Dtype>(src, values, n * kTile);
      body(strip);
      for (int64_t t = 0; t < n; ++t) {
        uint16_t random[kTile];
        if (rounding == ZK_STOCHASTIC) rounding_tile<V>(bits, strip.tile + static_cast<uint64_t>(t), random);
        narrow<V, Dtype>(values + t * kTile, dst + t * kTile, rounding == ZK_STOCHASTIC ? random : nullptr, kTile);
      }
    }
  }
}

}  // namespace
}  // namespace zk
