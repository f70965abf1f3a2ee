// perturb_ on a CUDA device: kernels, launch table, launcher. The work of a thread is in
// perturb_body.cuh, the tensor list and its chunks in tensor_list.cuh.
//
// Grid: as many blocks of 256 threads as the device holds at once, each walking the chunks of the list
// with the grid's stride. No device memory is allocated, but for a scratch of 16 bytes a term, in stream
// order, when a move has more than kParamTerms terms.
#include "launch.cuh"
#include "perturb_body.cuh"

namespace zk::cuda {

thread_local char last_error[256] = "";

namespace {

// ---- kernels

// 40 and 48 registers: 48 and 40 warps a processor. nvcc 13.0 spills below that (sm_80, sm_90, sm_100).
template <class P, bool kSingle, bool kRademacher, bool kStochastic>
__global__ void __launch_bounds__(kThreads, kSingle ? 6 : 5) perturb_dense(const __grid_constant__ P p) {
  run_dense<kSingle, kRademacher, kStochastic>(p, blockIdx.x, gridDim.x, threadIdx.x);
}

__global__ void __launch_bounds__(kThreads) perturb_general(const __grid_constant__ ManyStrided p) {
  run_general(p, blockIdx.x, gridDim.x, threadIdx.x);
}

// ---- launch table

template <class P>
const void* kernel_for(const P& params) {
  if constexpr (std::is_same_v<P, ManyStrided>) {
    return reinterpret_cast<const void*>(perturb_general);
  } else {
    const Variant v = choose(params);
    if (v.single) return reinterpret_cast<const void*>(perturb_dense<P, true, false, false>);
    if (v.rademacher)
      return v.stochastic ? reinterpret_cast<const void*>(perturb_dense<P, false, true, true>)
                          : reinterpret_cast<const void*>(perturb_dense<P, false, true, false>);
    return v.stochastic ? reinterpret_cast<const void*>(perturb_dense<P, false, false, true>)
                        : reinterpret_cast<const void*>(perturb_dense<P, false, false, false>);
  }
}

}  // namespace
}  // namespace zk::cuda

extern "C" int zk_cuda_perturb(const zk_tensor* tensors, int64_t n_tensors, const zk_move* move, int device,
                               void* stream_) {
  using namespace zk::cuda;
  const cudaStream_t stream = static_cast<cudaStream_t>(stream_);
  const auto term = [&](int64_t k) { return make_term(move->seeds[k], move->scales[k]); };
  return with_terms(move, term, device, stream, [&](const Term* more) {
    return plan(tensors, n_tensors, *move, more,
                [&](auto& params) { return launch(kernel_for(params), params, device, stream); });
  });
}

extern "C" int zk_cuda_device_count(void) {
  int count = 0;
  if (const cudaError_t error = cudaGetDeviceCount(&count); error != cudaSuccess) {
    zk::cuda::failed(error, "cudaGetDeviceCount");
    return 0;
  }
  return count;
}

extern "C" const char* zk_cuda_last_error(void) { return zk::cuda::last_error; }
