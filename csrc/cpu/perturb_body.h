// The move, generic over the instruction set V: the one loop body that perturb_<isa>.cpp compile.
//
//   dst <- round( fma(scale_k, z_k, ... fma(scale_0, z_0, decay * src)) )
//
// One term streams: load, fma, store, with prefetch 1 KiB ahead (1.2-1.5x beyond L2). Several terms
// walk strips of 16 tiles with the fp32 sums in an L1-sized buffer, so memory is still read and
// written once and the rounding happens once.
#pragma once

#include "../zokern.h"
#include "perturb_kernels.h"
#include "stream_body.h"

namespace zk {
namespace {

constexpr int kStripTiles = 16;
constexpr int kPrefetchBytes = 1024;

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
    combine(p, nearest_bias(V::as_words(even)), nearest_bias(V::as_words(odd)));
  }
  ZK_INLINE void store_stochastic(T* p, F even, F odd, W random) {
    combine(p, V::add(V::as_words(even), V::and_(random, V::word(0xffffu))),
            V::add(V::as_words(odd), V::template shift_right<16>(random)));
  }

 private:
  ZK_INLINE W nearest_bias(W u) {
    return V::add(u, V::add(V::and_(V::template shift_right<16>(u), V::word(1u)), V::word(0x7fffu)));
  }
  ZK_INLINE void combine(T* p, W even, W odd) {
    V::store_pairs(p, V::or_(V::template shift_right<16>(even), V::and_(odd, V::word(0xffff0000u))));
  }
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

// Where a term of a move stands: the first reads memory and applies decay, the last rounds and writes
// memory; between terms the values live in `sums`.

template <class V, int Dtype, int Noise, bool First, bool Last, bool Stochastic>
ZK_INLINE void walk(const typename Elements<V, Dtype>::T* src, typename Elements<V, Dtype>::T* dst, float* sums,
                    uint64_t tile, int64_t n_tiles, const Schedule& stream, const Schedule* rounding, float scale,
                    float decay) {
  using F = typename V::F;
  using E = Elements<V, Dtype>;
  const F scale_v = V::broadcast(scale), decay_v = V::broadcast(decay);
  for (int64_t t = 0; t < n_tiles; ++t, ++tile) {
    if (First) {
      ZK_UNROLL
      for (int line = 0; line < kTile * int(sizeof(*src)); line += 64) {
        V::prefetch(reinterpret_cast<const char*>(src) + kPrefetchBytes + line);
      }
    }
    uint16_t random[Last && Stochastic ? kTile : 1];
    if (Last && Stochastic) {
      for (int e = 0; e < kTile; e += 4 * V::kGroups * V::kLanes) {
        typename V::W words[2 * V::kGroups];
        philox_words<V>(*rounding, tile * kTileBlocks + static_cast<uint64_t>(e) / 8, words);
        ZK_UNROLL
        for (int i = 0; i < 2 * V::kGroups; ++i) V::store_pairs(random + e + 2 * i * V::kLanes, words[i]);
      }
    }
    auto apply = [&](int e, F z0, F z1) __attribute__((always_inline)) {
      F a, b;
      if (First) {
        E::load(src + e, a, b);
        a = V::mul(decay_v, a), b = V::mul(decay_v, b);
      } else {
        a = V::load(sums + e), b = V::load(sums + e + V::kLanes);
      }
      if (Noise != kNoNoise) {
        E::order(z0, z1);
        a = V::fma(scale_v, z0, a), b = V::fma(scale_v, z1, b);
      }
      if (!Last) {
        V::store(sums + e, a), V::store(sums + e + V::kLanes, b);
      } else if (Stochastic) {
        E::store_stochastic(dst + e, a, b, V::load_pairs(random + e));
      } else {
        E::store(dst + e, a, b);
      }
    };
    if (Noise == ZK_GAUSSIAN) {
      gaussian_tile<V>(stream, tile, apply);
    } else if (Noise == ZK_RADEMACHER) {
      rademacher_tile<V>(stream, tile, apply);
    } else {
      for (int e = 0; e < kTile; e += 2 * V::kLanes) apply(e, V::broadcast(0.0f), V::broadcast(0.0f));
    }
    if (First) src += kTile;
    if (Last) dst += kTile;
    if (!First || !Last) sums += kTile;
  }
}

// A run of whole tiles of one tensor: the table entry for fp32, bf16 and fp16.
template <class V, int Dtype, int Noise, bool Stochastic>
void run_tiles(const zk_move& move, uint32_t stream, const void* src_, void* dst_, uint64_t tile, int64_t n_tiles) {
  using T = typename Elements<V, Dtype>::T;
  const T* src = static_cast<const T*>(src_);
  T* dst = static_cast<T*>(dst_);
  const Schedule rounding(Stochastic ? move.seeds[0] : 0, stream, kLaneRounding);
  if (move.count <= 1) {
    const Schedule s(move.count ? move.seeds[0] : 0, stream, move.lane);
    const float scale = move.count ? move.scales[0] : 0.0f;
    walk<V, Dtype, Noise, true, true, Stochastic>(src, dst, nullptr, tile, n_tiles, s, &rounding, scale, move.decay);
    return;
  }
  alignas(64) float sums[kStripTiles * kTile];
  for (int64_t done = 0; done < n_tiles; done += kStripTiles) {
    const int64_t n = n_tiles - done < kStripTiles ? n_tiles - done : kStripTiles, first = done * kTile;
    for (int64_t k = 0; k < move.count; ++k) {
      const Schedule s(move.seeds[k], stream, move.lane);
      const uint64_t at = tile + static_cast<uint64_t>(done);
      const float scale = move.scales[k];
      if (k == 0) {
        walk<V, Dtype, Noise, true, false, false>(src + first, nullptr, sums, at, n, s, nullptr, scale, move.decay);
      } else if (k + 1 < move.count) {
        walk<V, Dtype == ZK_BF16 ? ZK_BF16 : ZK_F32, Noise, false, false, false>(nullptr, nullptr, sums, at, n, s,
                                                                                 nullptr, scale, 1.0f);
      } else {
        walk<V, Dtype, Noise, false, true, Stochastic>(nullptr, dst + first, sums, at, n, s, &rounding, scale, 1.0f);
      }
    }
  }
}

// float64: z and scale are fp32, so their product is exact and one addition a term is all that rounds.
template <class V, int Noise>
void run_tiles_f64(const zk_move& move, uint32_t stream, const void* src_, void* dst_, uint64_t tile, int64_t n_tiles) {
  const double* src = static_cast<const double*>(src_);
  double* dst = static_cast<double*>(dst_);
  for (int64_t t = 0; t < n_tiles; ++t) {
    alignas(64) float z[kTile];
    double sums[kTile];
    for (int e = 0; e < kTile; ++e) sums[e] = static_cast<double>(move.decay) * src[t * kTile + e];
    for (int64_t k = 0; k < move.count; ++k) {
      const Schedule s(move.seeds[k], stream, move.lane);
      auto keep = [&](int e, typename V::F z0, typename V::F z1) __attribute__((always_inline)) {
        Elements<V, ZK_F32>::order(z0, z1);
        V::store(z + e, z0), V::store(z + e + V::kLanes, z1);
      };
      if (Noise == ZK_GAUSSIAN)
        gaussian_tile<V>(s, tile + t, keep);
      else
        rademacher_tile<V>(s, tile + t, keep);
      const double scale = move.scales[k];
      for (int e = 0; e < kTile; ++e) sums[e] += scale * z[e];
    }
    for (int e = 0; e < kTile; ++e) dst[t * kTile + e] = sums[e];
  }
}

// constexpr, so that no code built for V runs when the library is loaded
template <class V>
constexpr PerturbTable make_table() {
  PerturbTable table{};
#define ZK_ROW(DTYPE, NOISE)                                      \
  table.run[DTYPE][NOISE][0] = run_tiles<V, DTYPE, NOISE, false>; \
  table.run[DTYPE][NOISE][1] = run_tiles<V, DTYPE, NOISE, DTYPE != ZK_F32>;
#define ZK_ROWS(DTYPE) ZK_ROW(DTYPE, ZK_GAUSSIAN) ZK_ROW(DTYPE, ZK_RADEMACHER) ZK_ROW(DTYPE, kNoNoise)
  ZK_ROWS(ZK_F32)
  ZK_ROWS(ZK_BF16)
  ZK_ROWS(ZK_F16)
#undef ZK_ROWS
#undef ZK_ROW
  for (int stochastic = 0; stochastic < 2; ++stochastic) {
    table.run[ZK_F64][ZK_GAUSSIAN][stochastic] = run_tiles_f64<V, ZK_GAUSSIAN>;
    table.run[ZK_F64][ZK_RADEMACHER][stochastic] = run_tiles_f64<V, ZK_RADEMACHER>;
    table.run[ZK_F64][kNoNoise][stochastic] = run_tiles_f64<V, ZK_GAUSSIAN>;
  }
  return table;
}

}  // namespace
}  // namespace zk
