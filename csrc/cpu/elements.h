// Memory and registers: elements of each dtype as fp32 vectors, rounded back to nearest or stochastically.
#pragma once

#include "../zokern.h"
#include "stream_body.h"

namespace zk {
namespace {

// Elements of one dtype, 2 * kLanes at a time as two vectors in the dtype's natural order:
// consecutive halves for fp32 and fp16, even and odd elements for bf16 (a shift each).
template <class V, int Dtype>
struct Elements;

template <class V>
struct Elements<V, ZK_F32> {
  using F = typename V::F;
  using T = float;
  ZK_INLINE void order(F& a, F& b) { V::interleave(F(a), F(b), a, b); }
  ZK_INLINE void load(const T* p, F& a, F& b) { a = V::load(p), b = V::load(p + V::kLanes); }
  ZK_INLINE void store(T* p, F a, F b) { V::store(p, a), V::store(p + V::kLanes, b); }
  ZK_INLINE void store_stochastic(T* p, F a, F b, typename V::W) { store(p, a, b); }
};

template <class V>
struct Elements<V, ZK_BF16> {
  using F = typename V::F;
  using W = typename V::W;
  using T = uint16_t;
  ZK_INLINE void order(F&, F&) {}
  ZK_INLINE void load(const T* p, F& even, F& odd) {
    const W pairs = V::load_pairs(p);
    even = V::as_floats(V::template shift_left<16>(pairs));
    odd = V::as_floats(V::and_(pairs, V::word(0xffff0000u)));
  }
  // Round to nearest even in integers: the hardware conversion flushes subnormals. A NaN cannot carry
  // into the sign: its low 16 bits are zero, because it came from a bf16 NaN.
  ZK_INLINE void store(T* p, F even, F odd) {
    combine(p, V::round_bias(V::as_words(even)), V::round_bias(V::as_words(odd)));
  }
  ZK_INLINE void store_stochastic(T* p, F even, F odd, W random) {
    combine(p, V::add(V::as_words(even), V::and_(random, V::word(0xffffu))),
            V::add(V::as_words(odd), V::template shift_right<16>(random)));
  }

 private:
  ZK_INLINE void combine(T* p, W even, W odd) { V::store_pairs(p, V::high_halves(even, odd)); }
};

template <class V>
struct Elements<V, ZK_F16> {
  using F = typename V::F;
  using W = typename V::W;
  using T = uint16_t;
  ZK_INLINE void order(F& a, F& b) { V::interleave(F(a), F(b), a, b); }
  ZK_INLINE void load(const T* p, F& a, F& b) { a = V::load_half(p), b = V::load_half(p + V::kLanes); }
  ZK_INLINE void store(T* p, F a, F b) { V::store_half(p, a), V::store_half(p + V::kLanes, b); }
  ZK_INLINE void store_stochastic(T* p, F a, F b, W random) {
    F low = V::as_floats(V::and_(random, V::word(0xffffu))), high = V::as_floats(V::template shift_right<16>(random));
    V::interleave(F(low), F(high), low, high);
    store(p, on_grid(a, V::as_words(low)), on_grid(b, V::as_words(high)));
  }

 private:
  // fp16_stochastic_grid() of core/perturb.h in vectors; inf and NaN pass through either branch
  ZK_INLINE F on_grid(F f, W random) {
    const W u = V::as_words(f), magnitude = V::and_(u, V::word(0x7fffffffu));
    const F size = V::as_floats(magnitude);
    const F normal = V::as_floats(V::and_(V::add(u, V::template shift_right<3>(random)), V::word(0xffffe000u)));
    const F scaled =
        V::add(V::mul(size, V::broadcast(16777216.0f)), V::mul(V::to_float(random), V::broadcast(0x1p-16f)));
    const F steps = V::mul(V::truncate(scaled), V::broadcast(0x1p-24f));
    const F tiny = V::as_floats(V::xor_masked(V::as_words(steps), u, 0x80000000u));
    return V::select_below(size, V::broadcast(0x1p-14f), tiny, normal);
  }
};

// 16 random bits for each element of the tile, in element order.
template <class V>
ZK_INLINE void rounding_tile(const Schedule& s, uint64_t tile, uint16_t random[kTile]) {
  const Keys<V> keys(s);
  for (int e = 0; e < kTile; e += 4 * V::kGroups * V::kLanes) {
    typename V::W words[2 * V::kGroups];
    philox_words<V>(s, keys, tile * kTileBlocks + static_cast<uint64_t>(e) / 8, words);
    ZK_UNROLL
    for (int i = 0; i < 2 * V::kGroups; ++i) V::store_pairs(random + e + 2 * i * V::kLanes, words[i]);
  }
}

}  // namespace
}  // namespace zk
