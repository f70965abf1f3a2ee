// adam on a CUDA device: kernels and launcher. A thread's work is in adam_body.cuh and state_body.cuh.
#include "adam_body.cuh"
#include "launch.cuh"

namespace zk::cuda {
namespace {

__global__ void __launch_bounds__(kThreads, 2) adam_dense(const __grid_constant__ DenseStates<AdamMove> p) {
  run_dense_states(p, blockIdx.x, gridDim.x, threadIdx.x);
}

__global__ void __launch_bounds__(kThreads, 2) adam_general(const __grid_constant__ StridedStates<AdamMove> p) {
  run_general_states(p, blockIdx.x, gridDim.x, threadIdx.x);
}

}  // namespace
}  // namespace zk::cuda

extern "C" int zk_cuda_adam(const zk_tensor* tensors, const zk_state* states, int64_t n_tensors, const zk_adam* move,
                            int device, void* stream_) {
  using namespace zk::cuda;
  const cudaStream_t stream = static_cast<cudaStream_t>(stream_);
  const auto term = [&](int64_t k) { return adam_term(*move, k); };
  return with_terms(move, term, device, stream, [&](const Term* more) {
    return plan_adam(tensors, states, n_tensors, *move, more, [&](auto& p) {
      constexpr bool kDense = std::is_same_v<std::decay_t<decltype(p)>, DenseStates<AdamMove>>;
      const void* kernel =
          kDense ? reinterpret_cast<const void*>(adam_dense) : reinterpret_cast<const void*>(adam_general);
      return launch(kernel, p, device, stream);
    });
  });
}
