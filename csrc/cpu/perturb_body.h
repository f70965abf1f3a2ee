// The move, generic over the instruction set V: the one loop body that <isa>.cpp compile.
//
//   dst <- round( fma(scale_k, z_k, ... fma(scale_0, z_0, decay * src)) )
//
// A null source, or decay = 0, reads nothing: decay * src is 0. One term streams: load, fma, store, with memory fetched
// ahead. Several terms walk strips of 16 tiles with the fp32 sums in an L1-sized buffer, so memory is still read and
// written once and the rounding happens once.
#pragma once

#include "ahead.h"
#include "elements.h"
#include "perturb_kernels.h"

namespace zk {
namespace {

// One term of a move over a run of tiles. The first term reads memory and applies decay, the last rounds and
// writes memory; between terms the values are in `sums`.
template <class V, int Dtype, int Noise, bool First, bool Last, bool Stochastic>
ZK_INLINE void walk(const typename Elements<V, Dtype>::T* src, typename Elements<V, Dtype>::T* dst, float* sums,
                    uint64_t tile, int64_t n_tiles, const Schedule& stream, const Schedule* rounding, float scale,
                    float decay) {
  using F = typename V::F;
  using E = Elements<V, Dtype>;
  constexpr bool kMemoryBound = Dtype == ZK_F32 || Noise != ZK_GAUSSIAN;
  const F scale_v = V::broadcast(scale), decay_v = V::broadcast(decay);
  for (int64_t t = 0; t < n_tiles; ++t, ++tile) {
    if (First && src) fetch_ahead<kTile * sizeof(*src), kMemoryBound>(src);
    if (First && Last && dst != src) fetch_ahead<kTile * sizeof(*src), kMemoryBound>(dst);
    uint16_t random[Last && Stochastic ? kTile : 1];
    if (Last && Stochastic) rounding_tile<V>(*rounding, tile, random);
    auto apply = [&](int e, F z0, F z1) __attribute__((always_inline)) {
      F a, b;
      if (First && !src) {
        a = b = V::broadcast(0.0f);
      } else if (First) {
        E::load(src + e, a, b);
        if (decay != 1.0f) a = V::mul(decay_v, a), b = V::mul(decay_v, b);  // 3 % faster in bf16 than a product with 1
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
    if (First && src) src += kTile;
    if (Last) dst += kTile;
    if (!First || !Last) sums += kTile;
  }
}

// A run of whole tiles of one tensor: the table entry for fp32, bf16 and fp16.
template <class V, int Dtype, int Noise, bool Stochastic>
void run_tiles(const zk_move& move, uint32_t stream, const void* src_, void* dst_, uint64_t tile, int64_t n_tiles) {
  using T = typename Elements<V, Dtype>::T;
  const T* src = move.decay == 0.0f ? nullptr : static_cast<const T*>(src_);
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
        walk<V, Dtype, Noise, true, false, false>(src ? src + first : nullptr, nullptr, sums, at, n, s, nullptr, scale,
                                                  move.decay);
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
  const double* src = move.decay == 0.0f ? nullptr : static_cast<const double*>(src_);
  double* dst = static_cast<double*>(dst_);
  for (int64_t t = 0; t < n_tiles; ++t) {
    alignas(64) float z[kTile];
    double sums[kTile];
    for (int e = 0; e < kTile; ++e) sums[e] = src ? static_cast<double>(move.decay) * src[t * kTile + e] : 0.0;
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

template <class V>
constexpr PerturbTable make_perturb_table() {
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
