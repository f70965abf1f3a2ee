// The move: p <- round_to_dtype( fma(scale_k, z_k, ... fma(scale_0, z_0, decay * p)) ).
// Constants of the stream and the scalar rounding rules, shared by host and device.
#pragma once

#include "normal.h"

namespace zk {

enum Lane : uint32_t { kLaneZ = 0, kLaneSecond = 1, kLaneRounding = 2 };

// Rademacher: element e reads bit (e & 31) of word (e >> 5) & 3 of block e >> 7; +1 if clear, -1 if set.
ZK_INLINE float rademacher(const uint32_t words[4], uint32_t e) {
  return bits_float(0x3f800000u | ((words[(e >> 5) & 3u] << (31u - (e & 31u))) & 0x80000000u));
}

// Stochastic rounding draws 16 bits an element from lane 2, keyed by the move's first seed:
// word j of block b holds those of element 8b + 2j (low half) and 8b + 2j + 1 (high half).
ZK_INLINE uint32_t rounding_bits(const uint32_t words[4], uint32_t e) {
  return (words[(e >> 1) & 3u] >> (16u * (e & 1u))) & 0xffffu;
}

ZK_INLINE float bf16_to_float(uint16_t h) { return bits_float(static_cast<uint32_t>(h) << 16); }

ZK_INLINE bool is_nan_bits(uint32_t u) { return (u & 0x7fffffffu) > 0x7f800000u; }

ZK_INLINE uint16_t bf16_nearest(float f) {
  const uint32_t u = float_bits(f);
  if (is_nan_bits(u)) return static_cast<uint16_t>((u >> 16) | 0x40u);
  return static_cast<uint16_t>((u + 0x7fffu + ((u >> 16) & 1u)) >> 16);
}

ZK_INLINE uint16_t bf16_stochastic(float f, uint32_t random16) {
  const uint32_t u = float_bits(f);
  if ((u & 0x7f800000u) == 0x7f800000u) return bf16_nearest(f);  // inf and NaN do not move
  return static_cast<uint16_t>((u + random16) >> 16);
}

// fp16 conversions in integer arithmetic, for targets without an instruction for them.
ZK_INLINE float half_to_float(uint16_t h) {
  const uint32_t sign = static_cast<uint32_t>(h & 0x8000u) << 16, exponent = (h >> 10) & 31u, mantissa = h & 0x3ffu;
  if (exponent == 0) {  // zero and subnormals: mantissa * 2^-24, exact
    return bits_float(float_bits(static_cast<float>(mantissa) * 0x1p-24f) | sign);
  }
  const uint32_t wide_exponent = exponent == 31u ? 255u : exponent + 112u;
  return bits_float(sign | (wide_exponent << 23) | (mantissa << 13));
}

ZK_INLINE uint16_t half_nearest(float f) {
  const uint32_t u = float_bits(f), sign = (u >> 16) & 0x8000u, magnitude = u & 0x7fffffffu;
  if (magnitude > 0x7f800000u) return static_cast<uint16_t>(sign | 0x7e00u | ((magnitude >> 13) & 0x3ffu));
  if (magnitude >= 0x47800000u) return static_cast<uint16_t>(sign | 0x7c00u);
  if (magnitude < 0x38800000u) {  // subnormal result: adding 1/2 lines up the bits, and the addition rounds
    const float shifted = bits_float(magnitude) + 0.5f;
    return static_cast<uint16_t>(sign | (float_bits(shifted) - 0x3f000000u));
  }
  const uint32_t rounded = magnitude + 0xfffu + ((magnitude >> 13) & 1u);
  return static_cast<uint16_t>(sign | ((rounded - 0x38000000u) >> 13));
}

// Rounds f to a multiple of fp16's spacing at |f|, up with probability equal to the discarded part;
// the result is exact in fp16 (or beyond its range, then infinite after the conversion).
ZK_INLINE float fp16_stochastic_grid(float f, uint32_t random16) {
  const uint32_t u = float_bits(f), sign = u & 0x80000000u, magnitude = u & 0x7fffffffu;
  if (magnitude >= 0x7f800000u) return f;
  if (magnitude >= 0x38800000u)  // >= 2^-14: 13 bits are discarded
    return bits_float((u + (random16 >> 3)) & 0xffffe000u);
  // Subnormal in fp16: the spacing is 2^-24 throughout. |f| 2^24 < 2^10 and the sum are exact enough
  // that the truncation is the floor of one IEEE addition, the same on every backend.
  const float scaled = bits_float(magnitude) * 16777216.0f + static_cast<float>(random16) * 0x1p-16f;
  const float grid = static_cast<float>(static_cast<uint32_t>(scaled)) * 0x1p-24f;
  return bits_float(float_bits(grid) | sign);
}

}  // namespace zk
