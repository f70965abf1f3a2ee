// fp32 arithmetic on one element, host and device: the interface of cpu/vec_*.h with one lane.
#pragma once

#include "normal.h"

namespace zk {

struct Scalar {
  using F = float;
  using W = uint32_t;
  ZK_INLINE F broadcast(float v) { return v; }
  ZK_INLINE W word(uint32_t w) { return w; }
  ZK_INLINE W as_words(F a) { return float_bits(a); }
  ZK_INLINE F as_floats(W a) { return bits_float(a); }
  ZK_INLINE W and_or(W a, uint32_t mask, uint32_t bits) { return (a & mask) | bits; }
  ZK_INLINE W xor_masked(W a, W b, uint32_t mask) { return a ^ (b & mask); }
  template <int Bits>
  ZK_INLINE W shift_left(W a) {
    return a << Bits;
  }
  ZK_INLINE W add(W a, W b) { return a + b; }
  ZK_INLINE F select_below(F a, F bound, F yes, F no) { return a < bound ? yes : no; }
  ZK_INLINE F fma(F a, F b, F c) { return fma_rn(a, b, c); }
  ZK_INLINE F max(F a, F b) { return a > b ? a : b; }
  ZK_INLINE F min(F a, F b) { return a < b ? a : b; }
  ZK_INLINE F abs(F a) { return bits_float(float_bits(a) & 0x7fffffffu); }
#ifdef __CUDA_ARCH__
  ZK_INLINE F add(F a, F b) { return __fadd_rn(a, b); }
  ZK_INLINE F sub(F a, F b) { return __fsub_rn(a, b); }
  ZK_INLINE F mul(F a, F b) { return __fmul_rn(a, b); }
  ZK_INLINE F div(F a, F b) { return __fdiv_rn(a, b); }
  ZK_INLINE F sqrt(F a) { return __fsqrt_rn(a); }
#else
  ZK_INLINE F add(F a, F b) { return a + b; }
  ZK_INLINE F sub(F a, F b) { return a - b; }
  ZK_INLINE F mul(F a, F b) { return a * b; }
  ZK_INLINE F div(F a, F b) { return a / b; }
  ZK_INLINE F sqrt(F a) { return std::sqrt(a); }
#endif
};

}  // namespace zk
