// fp32 arithmetic on one element, host and device: the interface of cpu/vec_*.h with one lane.
#pragma once

#include "normal.h"

namespace zk {

struct Scalar {
  using F = float;
  ZK_INLINE F broadcast(float v) { return v; }
  ZK_INLINE F fma(F a, F b, F c) { return fma_rn(a, b, c); }
  ZK_INLINE F max(F a, F b) { return a > b ? a : b; }
  ZK_INLINE F abs(F a) { return bits_float(float_bits(a) & 0x7fffffffu); }
#ifdef __CUDA_ARCH__
  ZK_INLINE F add(F a, F b) { return __fadd_rn(a, b); }
  ZK_INLINE F mul(F a, F b) { return __fmul_rn(a, b); }
  ZK_INLINE F div(F a, F b) { return __fdiv_rn(a, b); }
  ZK_INLINE F sqrt(F a) { return __fsqrt_rn(a); }
#else
  ZK_INLINE F add(F a, F b) { return a + b; }
  ZK_INLINE F mul(F a, F b) { return a * b; }
  ZK_INLINE F div(F a, F b) { return a / b; }
  ZK_INLINE F sqrt(F a) { return std::sqrt(a); }
#endif
};

}  // namespace zk
