// perturb_ on a CUDA device: kernels, launch table, launcher. The work of a thread is in
// perturb_body.cuh, the tensor list and its chunks in tensor_list.cuh.
//
// Grid: as many blocks of 256 threads as the device holds at once, each walking the chunks of the list
// with the grid's stride. No device memory is allocated, but for a scratch of 16 bytes a term, in stream
// order, when a move has more than kParamTerms terms.
#include <cuda_runtime.h>

#include <atomic>
#include <cstdio>

#include "perturb_body.cuh"

namespace zk::cuda {
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

// Writes terms into device memory from its own parameters: no copy from host memory that a captured
// graph would read again when it is gone.
constexpr int kStoredTerms = 2000;
struct StoredTerms {
  Term* to;
  int32_t count;
  Term terms[kStoredTerms];
};
static_assert(sizeof(StoredTerms) <= kParamBytes);

__global__ void __launch_bounds__(kThreads) store_terms(const __grid_constant__ StoredTerms p) {
  for (int32_t i = static_cast<int32_t>(threadIdx.x); i < p.count; i += kThreads) p.to[i] = p.terms[i];
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

// ---- launcher

thread_local char last_error[256] = "";

int failed(cudaError_t error, const char* call) {
  std::snprintf(last_error, sizeof last_error, "%s: %s (%s)", call, cudaGetErrorString(error), cudaGetErrorName(error));
  cudaGetLastError();  // leave no error behind for the next caller of the runtime
  return ZK_CUDA_ERROR;
}

#define ZK_CUDA_TRY(function, ...)                                                                                 \
  do {                                                                                                             \
    if (const cudaError_t error_ = function(__VA_ARGS__); error_ != cudaSuccess) return failed(error_, #function); \
  } while (0)

// Makes `device` current for the call and restores the caller's.
class DeviceGuard {
 public:
  cudaError_t enter(int device) {
    if (const cudaError_t error = cudaGetDevice(&previous_); error != cudaSuccess) return error;
    if (device == previous_) return cudaSuccess;
    changed_ = true;
    return cudaSetDevice(device);
  }
  ~DeviceGuard() {
    if (changed_) cudaSetDevice(previous_);
  }

 private:
  int previous_ = 0;
  bool changed_ = false;
};

// Blocks of `kernel` that `device` holds at once, asked for once per kernel and device.
int resident_blocks(const void* kernel, int device, uint32_t& blocks) {
  struct Slot {
    std::atomic<const void*> kernel{nullptr};
    std::atomic<uint32_t> blocks{0};
  };
  constexpr int kDevices = 64, kKernels = 16;
  static Slot cache[kDevices][kKernels];
  const bool cached = device >= 0 && device < kDevices;
  if (cached)
    for (Slot& slot : cache[device])
      if (slot.kernel.load(std::memory_order_acquire) == kernel) {
        blocks = slot.blocks.load(std::memory_order_relaxed);
        if (blocks) return ZK_OK;
      }
  int per_processor = 0, processors = 0;
  ZK_CUDA_TRY(cudaOccupancyMaxActiveBlocksPerMultiprocessor, &per_processor, kernel, kThreads, 0);
  ZK_CUDA_TRY(cudaDeviceGetAttribute, &processors, cudaDevAttrMultiProcessorCount, device);
  blocks = static_cast<uint32_t>(std::max(per_processor, 1) * std::max(processors, 1));
  if (cached)
    for (Slot& slot : cache[device]) {
      const void* free_slot = nullptr;
      if (slot.kernel.compare_exchange_strong(free_slot, kernel, std::memory_order_acq_rel) || free_slot == kernel) {
        slot.blocks.store(blocks, std::memory_order_release);
        break;
      }
    }
  return ZK_OK;
}

template <class P>
int launch(P& params, int device, cudaStream_t stream) {
  const void* kernel = kernel_for(params);
  uint32_t blocks = 0;
  if (const int status = resident_blocks(kernel, device, blocks); status != ZK_OK) return status;
  number_chunks(params, blocks);
  void* arguments[] = {&params};
  ZK_CUDA_TRY(cudaLaunchKernel, kernel, dim3(std::min(params.chunks, blocks)), dim3(kThreads), arguments, 0, stream);
  return ZK_OK;
}

int upload_terms(const zk_move& move, Term* to, cudaStream_t stream) {
  StoredTerms params{};
  for (int64_t first = 0; first < move.count; first += kStoredTerms) {
    params.to = to + first;
    params.count = static_cast<int32_t>(std::min<int64_t>(move.count - first, kStoredTerms));
    for (int32_t k = 0; k < params.count; ++k)
      params.terms[k] = make_term(move.seeds[first + k], move.scales[first + k]);
    void* arguments[] = {&params};
    ZK_CUDA_TRY(cudaLaunchKernel, reinterpret_cast<const void*>(store_terms), dim3(1), dim3(kThreads), arguments, 0,
                stream);
  }
  return ZK_OK;
}

}  // namespace
}  // namespace zk::cuda

extern "C" int zk_cuda_perturb(const zk_tensor* tensors, int64_t n_tensors, const zk_move* move, int device,
                               void* stream_) {
  using namespace zk::cuda;
  const cudaStream_t stream = static_cast<cudaStream_t>(stream_);
  DeviceGuard guard;
  if (const cudaError_t error = guard.enter(device); error != cudaSuccess) return failed(error, "cudaSetDevice");
  const auto send = [&](auto& params) { return launch(params, device, stream); };
  if (move->count <= kParamTerms) return plan(tensors, n_tensors, *move, nullptr, send);
  Term* more = nullptr;
  ZK_CUDA_TRY(cudaMallocAsync, reinterpret_cast<void**>(&more), static_cast<size_t>(move->count) * sizeof(Term),
              stream);
  int status = upload_terms(*move, more, stream);
  if (status == ZK_OK) status = plan(tensors, n_tensors, *move, more, send);
  if (const cudaError_t error = cudaFreeAsync(more, stream); error != cudaSuccess && status == ZK_OK)
    return failed(error, "cudaFreeAsync");
  return status;
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
