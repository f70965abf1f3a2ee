// The move from one dtype to another, generic over the instruction set V: strips of fp32 (float64 from float64),
// which are rounded once to the target's dtype.
#pragma once

#include "../core/convert.h"
#include "perturb_body.h"
#include "state_body.h"

namespace zk {
namespace {

template <class V, int Noise>
void run_strip(const zk_move& move, bool wide, uint32_t stream, const void* src, void* dst, uint64_t tile, int64_t n) {
  if (wide)
    run_tiles_f64<V, Noise == kNoNoise ? ZK_GAUSSIAN : Noise>(move, stream, src, dst, tile, n);
  else
    run_tiles<V, ZK_F32, Noise, false>(move, stream, src, dst, tile, n);
}

// fp32 to a 16-bit dtype, with the random bits of lane 2 where `bits` are given.
template <class V>
void narrow_tiles(const float* from, int dtype, uint16_t* to, const Schedule* bits, uint64_t tile, int64_t n_tiles) {
  for (int64_t t = 0; t < n_tiles; ++t, from += kTile, to += kTile) {
    uint16_t random[kTile];
    if (bits) rounding_tile<V>(*bits, tile + static_cast<uint64_t>(t), random);
    (dtype == ZK_BF16 ? narrow<V, ZK_BF16> : narrow<V, ZK_F16>)(from, to, bits ? random : nullptr, kTile);
  }
}

template <class V>
void run_mixed(const zk_move& move, int from, int to, uint32_t stream, const void* src, void* dst, uint64_t tile,
               int64_t n_tiles) {
  const auto run = noise_of(move) == ZK_GAUSSIAN     ? run_strip<V, ZK_GAUSSIAN>
                   : noise_of(move) == ZK_RADEMACHER ? run_strip<V, ZK_RADEMACHER>
                                                     : run_strip<V, kNoNoise>;
  const auto item = [](int dtype) { return dtype == ZK_F64 ? 8 : dtype == ZK_F32 ? 4 : 2; };
  const bool wide = from == ZK_F64, sixteen = to == ZK_BF16 || to == ZK_F16;
  const bool stochastic = sixteen && move.rounding == ZK_STOCHASTIC;
  const Schedule bits(stochastic ? move.seeds[0] : 0, stream, kLaneRounding);
  if (move.decay == 0.0f) src = nullptr;
  for (int64_t done = 0; done < n_tiles; done += kStripTiles) {
    const int64_t tiles = n_tiles - done < kStripTiles ? n_tiles - done : kStripTiles, n = tiles * kTile;
    const uint64_t at = tile + static_cast<uint64_t>(done);
    const char* in = src ? static_cast<const char*>(src) + done * kTile * item(from) : nullptr;
    char* out = static_cast<char*>(dst) + done * kTile * item(to);
    alignas(64) float values[kStrip];
    if (wide) {
      double sums[kStrip];
      run(move, true, stream, in, sums, at, tiles);
      for (int64_t e = 0; e < n; ++e)
        values[e] = sixteen ? shortened(sums[e], stochastic) : static_cast<float>(sums[e]);
    } else {
      if (in && from != ZK_F32) {
        (from == ZK_BF16 ? widen<V, ZK_BF16> : widen<V, ZK_F16>)(reinterpret_cast<const uint16_t*>(in), values, n);
        in = reinterpret_cast<const char*>(values);
      }
      run(move, false, stream, in, values, at, tiles);
    }
    if (sixteen) {
      narrow_tiles<V>(values, to, reinterpret_cast<uint16_t*>(out), stochastic ? &bits : nullptr, at, tiles);
    } else if (to == ZK_F32) {
      std::memcpy(out, values, static_cast<size_t>(n) * sizeof(float));
    } else {
      double* wider = reinterpret_cast<double*>(out);
      for (int64_t e = 0; e < n; ++e) wider[e] = values[e];
    }
  }
}

}  // namespace
}  // namespace zk
