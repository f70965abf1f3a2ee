// adamu on a CUDA device: kernels and launcher. A thread's work is in adamu_body.cuh and state_body.cuh.
#include "adamu_body.cuh"
#include "launch.cuh"

namespace zk::cuda {
namespace {

__global__ void __launch_bounds__(kThreads, 2) adamu_dense(const __grid_constant__ DenseStates<AdamuMove> p) {
  run_dense_states(p, blockIdx.x, gridDim.x, threadIdx.x);
}

__global__ void __launch_bounds__(kThreads, 2) adamu_general(const __grid_constant__ StridedStates<AdamuMove> p) {
  run_general_states(p, blockIdx.x, gridDim.x, threadIdx.x);
}

}  // namespace
}  // namespace zk::cuda

extern "C" int zk_cuda_adamu(const zk_tensor* tensors, const zk_state* states, int64_t n_tensors, const zk_adamu* move,
                             int device, void* stream_) {
  using namespace zk::cuda;
  const cudaStream_t stream = static_cast<cudaStream_t>(stream_);
  return on_device(device, [&] {
    return plan_adamu(tensors, states, n_tensors, *move, [&](auto& p) {
      constexpr bool kDense = std::is_same_v<std::decay_t<decltype(p)>, DenseStates<AdamuMove>>;
      const void* kernel =
          kDense ? reinterpret_cast<const void*>(adamu_dense) : reinterpret_cast<const void*>(adamu_general);
      return launch(kernel, p, device, stream);
    });
  });
}
