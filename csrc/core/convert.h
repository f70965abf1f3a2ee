// What a move computes for one dtype, rounded once to another. zk_tensor.dtype holds both (zokern.h).
#pragma once

#include "../zokern.h"
#include "perturb.h"

namespace zk {

inline int source_dtype(int dtype) { return dtype & ((1 << ZK_OUT_SHIFT) - 1); }
inline int target_dtype(int dtype) { return dtype >> ZK_OUT_SHIFT ? (dtype >> ZK_OUT_SHIFT) - 1 : dtype; }
inline bool is_dtype(int dtype) { return dtype >= ZK_F32 && dtype <= ZK_F64; }

// An fp32 number that rounds to a 16-bit format as `x` itself does: x without the bits that fp32 has no place for.
// Stochastic rounding adds random bits above those and truncates. Rounding to nearest has to know that something
// was cut off: then the last bit is set (round to odd; Boldo and Melquiond, 2008).
ZK_INLINE float shortened(double x, bool stochastic) {
  const float rounded = static_cast<float>(x);
  const double size = x < 0.0 ? -x : x, back = rounded < 0.0f ? -static_cast<double>(rounded) : rounded;
  if (!(size < 0x1p128)) return rounded;  // infinite in fp32, or NaN
  uint32_t bits = float_bits(rounded);
  if (back > size) --bits;
  if (!stochastic && back != size) bits |= 1u;
  return bits_float(bits);
}

}  // namespace zk
