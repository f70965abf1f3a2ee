// The zk-v1 stream in vectors, generic over the instruction set V (vec_*.h).
//
// The unit is a tile: 256 elements = 32 Philox blocks, aligned in the stream. The high counter word
// is constant inside a tile, so the first two Philox rounds fold half of their work into scalars.
// A group is kLanes / 2 blocks; V::kGroups groups run in lockstep to hide the multiply's latency
// (AVX-512: four groups are 1.6x one).
#pragma once

#include <cstddef>

#include "../core/perturb.h"

#define ZK_UNROLL _Pragma("GCC unroll 16")

namespace zk {
namespace {

constexpr int kTile = 256;
constexpr int kTileBlocks = kTile / 8;
constexpr int kStripTiles = 16;  // tiles that go through an L1-sized buffer together

// The round keys of (seed) and the two counter words that do not change along a tensor.
struct Schedule {
  uint32_t key0[kPhiloxRounds], key1[kPhiloxRounds];
  uint64_t seed;
  uint32_t stream, lane;

  Schedule(uint64_t seed_, uint32_t stream_, uint32_t lane_) : seed(seed_), stream(stream_), lane(lane_) {
    for (int r = 0; r < kPhiloxRounds; ++r) {
      key0[r] = static_cast<uint32_t>(seed) + static_cast<uint32_t>(r) * kPhiloxW0;
      key1[r] = static_cast<uint32_t>(seed >> 32) + static_cast<uint32_t>(r) * kPhiloxW1;
    }
  }
};

// The round keys as V's xor3 takes them.
template <class V>
struct Keys {
  typename V::Key key0[kPhiloxRounds], key1[kPhiloxRounds];

  ZK_MEMBER explicit Keys(const Schedule& s) {
    for (int r = 0; r < kPhiloxRounds; ++r) key0[r] = V::key(s.key0[r]), key1[r] = V::key(s.key1[r]);
  }
};

// Words of kGroups groups of blocks from `block` (a multiple of their number), in stream order.
template <class V>
ZK_INLINE void philox_words(const Schedule& s, const Keys<V>& keys, uint64_t block,
                            typename V::W words[2 * V::kGroups]) {
  using Wide = typename V::Wide;
  constexpr int G = V::kGroups, kBlocks = V::kLanes / 2;
  uint32_t stream_low, stream_high, low, high;
  mul_wide(s.stream, kPhiloxM1, stream_low, stream_high);
  mul_wide(stream_high ^ static_cast<uint32_t>(block >> 32) ^ s.key0[0], kPhiloxM0, low, high);

  Wide c0[G], c1[G], c2[G], c3[G];
  const Wide first = V::wide_iota(block);
  ZK_UNROLL
  for (int g = 0; g < G; ++g) {  // round 0
    const Wide product = V::multiply(g ? V::add_wide(first, kBlocks * g) : first, kPhiloxM0);
    c2[g] = V::xor_wide(V::high(product), V::wide(s.lane ^ s.key1[0]));
    c3[g] = product;
  }
  ZK_UNROLL
  for (int g = 0; g < G; ++g) {  // round 1
    const Wide product = V::multiply(c2[g], kPhiloxM1);
    c0[g] = V::xor_wide(V::high(product), V::wide(stream_low ^ s.key0[1]));
    c2[g] = V::xor_wide(c3[g], V::wide(high ^ s.key1[1]));
    c1[g] = product;
    c3[g] = V::wide(low);
  }
  ZK_UNROLL
  for (int r = 2; r < kPhiloxRounds; ++r) {
    ZK_UNROLL
    for (int g = 0; g < G; ++g) {
      const Wide p0 = V::multiply(c0[g], kPhiloxM0), p1 = V::multiply(c2[g], kPhiloxM1);
      c0[g] = V::xor3(V::high(p1), c1[g], keys.key0[r]);
      c2[g] = V::xor3(V::high(p0), c3[g], keys.key1[r]);
      c1[g] = p1;
      c3[g] = p0;
    }
  }
  ZK_UNROLL
  for (int g = 0; g < G; ++g) V::to_words(c0[g], c1[g], c2[g], c3[g], words[2 * g], words[2 * g + 1]);
}

// N vectors of words to N vectors of even-element and N of odd-element normals, in lockstep.
template <class V, int N>
ZK_INLINE void normal_pairs(const typename V::W* w, typename V::F* z0, typename V::F* z1) {
  using F = typename V::F;
  using P = typename V::P;  // what the polynomials are computed in
  F r[N], x[N], s[N], c[N];
  P d[N], q[N];
  ZK_UNROLL
  for (int i = 0; i < N; ++i) {
    const F f = V::sub(V::as_floats(V::and_or(w[i], 0x007fffffu, 0x4b000000u)), V::broadcast(8388607.5f));
    r[i] = V::mul(V::exponent_term(f), V::broadcast(kLn));
    d[i] = V::widen(V::sub(V::as_floats(V::and_or(V::as_words(f), 0x007fffffu, 0x3f800000u)), V::broadcast(2.0f)));
  }
  ZK_UNROLL
  for (int i = 0; i < N; ++i) q[i] = V::step(V::constant(kLogP6), d[i], V::constant(kLogP5));
  ZK_UNROLL
  for (int i = 0; i < N; ++i) q[i] = V::step(q[i], d[i], V::constant(kLogP4));
  ZK_UNROLL
  for (int i = 0; i < N; ++i) q[i] = V::step(q[i], d[i], V::constant(kLogP3));
  ZK_UNROLL
  for (int i = 0; i < N; ++i) q[i] = V::step(q[i], d[i], V::constant(kLogP2));
  ZK_UNROLL
  for (int i = 0; i < N; ++i) q[i] = V::step(q[i], d[i], V::constant(kLogP1));
  ZK_UNROLL
  for (int i = 0; i < N; ++i) q[i] = V::step(q[i], d[i], V::constant(kLogP0));
  ZK_UNROLL
  for (int i = 0; i < N; ++i) r[i] = V::sqrt(V::last_step(q[i], d[i], V::widen(r[i])));
  ZK_UNROLL
  for (int i = 0; i < N; ++i) {
    const auto coarse = V::and_or(V::template shift_right<7>(w[i]), 0x007f0000u, 0x40000000u);
    x[i] = V::sub(V::as_floats(V::borrow_low_half(coarse, w[i])), V::broadcast(3.0f));
  }
  ZK_UNROLL
  for (int i = 0; i < N; ++i) {
    const P y = V::widen(V::mul(x[i], x[i]));
    const P sine = V::step(V::constant(kSin2), y, V::constant(kSin1));
    s[i] = V::mul(V::last_step(sine, y, V::constant(kSin0)), x[i]);
    const P cosine = V::step(V::step(V::constant(kCos3), y, V::constant(kCos2)), y, V::constant(kCos1));
    c[i] = V::last_step(cosine, y, V::constant(1.0f));
  }
  ZK_UNROLL
  for (int i = 0; i < N; ++i) {
    c[i] = V::as_floats(V::xor_masked(V::as_words(c[i]), w[i], 0x80000000u));
    z0[i] = V::mul(r[i], V::template select<30>(w[i], s[i], c[i]));
    z1[i] = V::mul(r[i], V::template select<30>(w[i], c[i], s[i]));
  }
}

// Calls sink(e, z0, z1) for the tile's 2 * kLanes elements from e: z0 of the even ones, z1 of the odd.
template <class V, class Sink>
ZK_INLINE void gaussian_tile(const Schedule& s, uint64_t tile, Sink&& sink) {
  constexpr int kWords = 2 * V::kGroups, kStep = 2 * V::kLanes, kAtOnce = kWords < 4 ? kWords : 4;
  const Keys<V> keys(s);
  for (int e = 0; e < kTile; e += kWords * kStep) {
    typename V::W words[kWords];
    philox_words<V>(s, keys, tile * kTileBlocks + static_cast<uint64_t>(e) / 8, words);
    ZK_UNROLL
    for (int k = 0; k < kWords; k += kAtOnce) {
      typename V::F z0[kAtOnce], z1[kAtOnce];
      normal_pairs<V, kAtOnce>(words + k, z0, z1);
      ZK_UNROLL
      for (int i = 0; i < kAtOnce; ++i) sink(e + (k + i) * kStep, z0[i], z1[i]);
    }
  }
}

// The same for signs: a tile is two blocks of 128.
template <class V, class Sink>
ZK_INLINE void rademacher_tile(const Schedule& s, uint64_t tile, Sink&& sink) {
  constexpr int kStep = 2 * V::kLanes;
  uint32_t words[8];
  philox_block(s.seed, 2 * tile, s.stream, s.lane, words);
  philox_block(s.seed, 2 * tile + 1, s.stream, s.lane, words + 4);
  const auto to_top = V::xor_masked(V::word(31u), V::template shift_left<1>(V::iota()), 0xffffffffu);  // 31 - 2i
  for (int e = 0; e < kTile; e += kStep) {
    // element e + 2i has bit (e + 2i) & 31 of its word, the odd one the next bit: shift it to the top
    const uint32_t word = words[e / 32] >> (e % 32);
    const auto even = V::shift_left_each(V::word(word), to_top), odd = V::shift_left_each(V::word(word >> 1), to_top);
    sink(e, V::as_floats(V::and_or(even, 0x80000000u, 0x3f800000u)),
         V::as_floats(V::and_or(odd, 0x80000000u, 0x3f800000u)));
  }
}

}  // namespace
}  // namespace zk
