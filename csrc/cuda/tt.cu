// Tensor-train layers on a CUDA device: kernels and launchers. A block's work is in tt_groups_body.cuh and
// tt_rows_body.cuh, the two launches of a call in tt_plan.cuh and tt_call.cuh.
#include "launch.cuh"
#include "tt_call.cuh"
#include "tt_groups_body.cuh"

namespace zk::cuda {
namespace {

struct Device {
  uint32_t thread = threadIdx.x;
  __device__ __forceinline__ void sync() const { __syncthreads(); }
};

__global__ void __launch_bounds__(kThreads) tt_groups(const __grid_constant__ TtGroups p) {
  run_groups(p, blockIdx.x, Device());
}

// At most 128 registers, two blocks a processor: with 80, for three, nvcc 13.0 spills (sm_80, sm_90).
template <class F, bool kShared>
__global__ void __launch_bounds__(kThreads, 2) tt_rows(const __grid_constant__ TtRowsCall p) {
  extern __shared__ float4 shared[];
  float* memory = kShared ? reinterpret_cast<float*>(shared) : p.scratch + static_cast<int64_t>(blockIdx.x) * p.floats;
  run_rows<F, kShared>(p, blockIdx.x, gridDim.x, memory, Device());
}

template <bool kShared>
const void* rows_kernel(int dtype) {
  if (dtype == ZK_BF16) return reinterpret_cast<const void*>(tt_rows<BF16, kShared>);
  if (dtype == ZK_F16) return reinterpret_cast<const void*>(tt_rows<F16, kShared>);
  return reinterpret_cast<const void*>(tt_rows<F32, kShared>);
}

int launch_groups(TtGroups& p, uint32_t blocks, cudaStream_t stream) {
  void* arguments[] = {&p};
  ZK_CUDA_TRY(cudaLaunchKernel, reinterpret_cast<const void*>(tt_groups), dim3(blocks), dim3(kThreads), arguments, 0,
              stream);
  return ZK_OK;
}

int launch_rows(TtRowsCall& p, uint32_t blocks, cudaStream_t stream) {
  const void* kernel = p.scratch ? rows_kernel<false>(p.x_dtype) : rows_kernel<true>(p.x_dtype);
  const size_t bytes = p.scratch ? 0 : static_cast<size_t>(p.floats) * sizeof(float);
  if (bytes > 48 * 1024)  // what a kernel may take without asking
    ZK_CUDA_TRY(cudaFuncSetAttribute, kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(bytes));
  void* arguments[] = {&p};
  ZK_CUDA_TRY(cudaLaunchKernel, kernel, dim3(blocks), dim3(kThreads), arguments, bytes, stream);
  return ZK_OK;
}

}  // namespace
}  // namespace zk::cuda

extern "C" int64_t zk_cuda_tt_halves_workspace(const zk_tt* layer, int64_t queries) {
  return zk::cuda::halves_floats(*layer, queries);
}

extern "C" int64_t zk_cuda_tt_workspace(const zk_tt* layers, int n_layers, const zk_tt_rows* rows, int noise) {
  return zk::cuda::TtCallPlan(layers, n_layers, *rows, noise != 0, nullptr).workspace_floats();
}

extern "C" int zk_cuda_tt_halves(const zk_tt* layer, float* left, float* right, int64_t queries, float* workspace,
                                 int device, void* stream_) {
  using namespace zk::cuda;
  const cudaStream_t stream = static_cast<cudaStream_t>(stream_);
  return on_device(device, [&] {
    return run_tt_halves(*layer, left, right, queries, workspace,
                         [&](TtGroups& p, uint32_t blocks) { return launch_groups(p, blocks, stream); });
  });
}

extern "C" int zk_cuda_tt_rows(const zk_tt* layers, int n_layers, float scale, int activation, const zk_tt_rows* rows,
                               const zk_tt_noise* noise, float* workspace, int device, void* stream_) {
  using namespace zk::cuda;
  const cudaStream_t stream = static_cast<cudaStream_t>(stream_);
  return on_device(device, [&] {
    return run_tt(
        layers, n_layers, scale, activation, *rows, noise, workspace,
        [&](TtGroups& p, uint32_t blocks) { return launch_groups(p, blocks, stream); },
        [&](TtRowsCall& p, uint32_t blocks) { return launch_rows(p, blocks, stream); });
  });
}
