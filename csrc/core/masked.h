// Which elements a masked move takes: those with |p| <= threshold, compared as integers.
#pragma once

#include "../zokern.h"
#include "perturb.h"

namespace zk {

// The bits of the dtype's largest number up to `threshold` (0 or above, or infinite). Numbers of one sign
// are ordered as their bits are, and NaN lies above infinity: it is never chosen.
inline uint64_t magnitude_limit(float threshold, int dtype) {
  const uint32_t bits = float_bits(threshold + 0.0f);  // not -0
  if (dtype == ZK_F32) return bits;
  if (dtype == ZK_BF16) return bits >> 16;
  if (dtype == ZK_F16) {
    const uint16_t half = half_nearest(threshold);
    return half_to_float(half) > threshold ? half - 1u : half;
  }
  const double wide = threshold;
  uint64_t bits64;
  std::memcpy(&bits64, &wide, 8);
  return bits64;
}

// U: an unsigned integer as wide as the dtype.
template <class U>
ZK_INLINE bool is_small(U bits, U limit) {
  return static_cast<U>(bits & (static_cast<U>(~U(0)) >> 1)) <= limit;
}

}  // namespace zk
