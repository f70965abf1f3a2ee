// The square root of the stream on a device: correctly rounded, without sqrt.rn's range check.
//
// nvcc expands sqrt.rn.f32 (__fsqrt_rn) to a range check, a slow path for arguments outside
// [2^-101, 2^128) and this fast path, the same on sm_80, sm_90 and sm_100 (nvcc 13.0):
//     MUFU.RSQ y, x;  FMUL g, x, y;  FMUL h, y, 0.5;  FFMA e, -g, g, x;  FFMA r, e, h, g
// r^2 of the stream lies in [1.1e-7, 33.3], far inside, so its root is __fsqrt_rn's, bit for bit,
// at 5 instructions instead of 9 and without a branch. tests/cuda/test_cubin.py compares the two
// instruction sequences; tests/cuda/test_device.py compares all results on a device.
// -DZK_CUDA_SAFE_SQRT takes __fsqrt_rn itself.
#pragma once

#ifdef __CUDACC__
namespace zk {

static __device__ __forceinline__ float sqrt_in_range(float x) {
#ifdef ZK_CUDA_SAFE_SQRT
  return __fsqrt_rn(x);
#else
  float y;
  asm("rsqrt.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  const float g = __fmul_rn(x, y), h = __fmul_rn(y, 0.5f);
  return __fmaf_rn(__fmaf_rn(-g, g, x), h, g);
#endif
}

}  // namespace zk
#endif
