// sqrt_in_range of csrc/cuda/sqrt.cuh beside __fsqrt_rn: the two kernels whose instructions
// test_cubin.py compares, and the exhaustive comparison of test_device.py.
#include "../../csrc/core/normal.h"

extern "C" __global__ void root_compiler(float* x) { x[threadIdx.x] = __fsqrt_rn(x[threadIdx.x]); }

extern "C" __global__ void root_ours(float* x) { x[threadIdx.x] = zk::sqrt_in_range(x[threadIdx.x]); }

namespace {

// Every fp32 value in [2^-24, 64), which holds every r^2 of the stream, against both the compiler's root
// and the double-precision root rounded to float (exact: 53 >= 2 x 24 + 2 bits).
__global__ void compare_roots(uint32_t first, uint32_t count, unsigned long long* wrong) {
  for (uint32_t i = blockIdx.x * blockDim.x + threadIdx.x; i < count; i += gridDim.x * blockDim.x) {
    const float x = __uint_as_float(first + i), root = zk::sqrt_in_range(x);
    if (root != __fsqrt_rn(x) || root != __double2float_rn(__dsqrt_rn(static_cast<double>(x)))) atomicAdd(wrong, 1ull);
  }
}

__global__ void all_radii(float* radii) {
  for (uint32_t k = blockIdx.x * blockDim.x + threadIdx.x; k < 1u << 23; k += gridDim.x * blockDim.x)
    radii[k] = zk::radius(k);
}

}  // namespace

// Returns a cudaError_t. *wrong: how many of the *compared roots differ.
extern "C" int check_roots(unsigned long long* wrong, unsigned long long* compared) {
  const uint32_t first = 0x33800000u, last = 0x42800000u;  // 2^-24, 64
  unsigned long long* device = nullptr;
  cudaError_t error = cudaMalloc(&device, sizeof *device);
  if (error == cudaSuccess) error = cudaMemset(device, 0, sizeof *device);
  if (error == cudaSuccess) {
    compare_roots<<<1024, 256>>>(first, last - first, device);
    error = cudaGetLastError();
  }
  if (error == cudaSuccess) error = cudaMemcpy(wrong, device, sizeof *wrong, cudaMemcpyDeviceToHost);
  *compared = last - first;
  cudaFree(device);
  return error;
}

// Writes the 2^23 radii of the stream to device memory.
extern "C" int fill_radii(float* radii) {
  all_radii<<<1024, 256>>>(radii);
  const cudaError_t error = cudaGetLastError();
  return error == cudaSuccess ? cudaDeviceSynchronize() : error;
}
