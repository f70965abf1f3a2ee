// masked on a CUDA device: kernels and launcher. A thread's work is in masked_body.cuh and state_body.cuh.
#include "launch.cuh"
#include "masked_body.cuh"

namespace zk::cuda {
namespace {

__global__ void __launch_bounds__(kThreads, 2) masked_dense(const __grid_constant__ DenseStates<MaskedMove> p) {
  run_dense_states(p, blockIdx.x, gridDim.x, threadIdx.x);
}

__global__ void __launch_bounds__(kThreads, 2) masked_general(const __grid_constant__ StridedStates<MaskedMove> p) {
  run_general_states(p, blockIdx.x, gridDim.x, threadIdx.x);
}

}  // namespace
}  // namespace zk::cuda

extern "C" int zk_cuda_perturb_masked(const zk_tensor* tensors, const zk_state* masks, const float* thresholds,
                                      int64_t n_tensors, const zk_move* move, int device, void* stream_) {
  using namespace zk::cuda;
  const cudaStream_t stream = static_cast<cudaStream_t>(stream_);
  const auto term = [&](int64_t k) { return make_term(move->seeds[k], move->scales[k]); };
  return with_terms(move, term, device, stream, [&](const Term* more) {
    return plan_masked(tensors, masks, thresholds, n_tensors, *move, more, [&](auto& p) {
      constexpr bool kDense = std::is_same_v<std::decay_t<decltype(p)>, DenseStates<MaskedMove>>;
      const void* kernel =
          kDense ? reinterpret_cast<const void*>(masked_dense) : reinterpret_cast<const void*>(masked_general);
      return launch(kernel, p, device, stream);
    });
  });
}
