// Launching: errors in words, the caller's device, the size of the grid, terms beyond the parameters.
#pragma once

#include <cuda_runtime.h>

#include <atomic>
#include <cstdio>

#include "tensor_list.cuh"

namespace zk::cuda {

extern thread_local char last_error[256];  // of this thread (perturb.cu)

namespace {

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

// As many blocks as the device holds at once, or as there are chunks.
template <class P>
int launch(const void* kernel, P& params, int device, cudaStream_t stream) {
  uint32_t blocks = 0;
  if (const int status = resident_blocks(kernel, device, blocks); status != ZK_OK) return status;
  number_chunks(params, blocks);
  void* arguments[] = {&params};
  ZK_CUDA_TRY(cudaLaunchKernel, kernel, dim3(std::min(params.chunks, blocks)), dim3(kThreads), arguments, 0, stream);
  return ZK_OK;
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

// term(k): the k-th of `count` terms
template <class MakeTerm>
int upload_terms(int64_t count, const MakeTerm& term, Term* to, cudaStream_t stream) {
  StoredTerms params{};
  for (int64_t first = 0; first < count; first += kStoredTerms) {
    params.to = to + first;
    params.count = static_cast<int32_t>(std::min<int64_t>(count - first, kStoredTerms));
    for (int32_t k = 0; k < params.count; ++k) params.terms[k] = term(first + k);
    void* arguments[] = {&params};
    ZK_CUDA_TRY(cudaLaunchKernel, reinterpret_cast<const void*>(store_terms), dim3(1), dim3(kThreads), arguments, 0,
                stream);
  }
  return ZK_OK;
}

// Calls run() with `device` current.
template <class Launches>
int on_device(int device, const Launches& run) {
  DeviceGuard guard;
  if (const cudaError_t error = guard.enter(device); error != cudaSuccess) return failed(error, "cudaSetDevice");
  return run();
}

// Calls run(more) on `device`: `more` are the move's terms in device memory where the parameters cannot
// hold them, else null. term(k): the k-th of move->count.
template <class Move, class MakeTerm, class Launches>
int with_terms(const Move* move, const MakeTerm& term, int device, cudaStream_t stream, const Launches& run) {
  return on_device(device, [&]() -> int {
    if (move->count <= kParamTerms) return run(nullptr);
    Term* more = nullptr;
    const size_t bytes = static_cast<size_t>(move->count) * sizeof(Term);
    ZK_CUDA_TRY(cudaMallocAsync, reinterpret_cast<void**>(&more), bytes, stream);
    int status = upload_terms(move->count, term, more, stream);
    if (status == ZK_OK) status = run(more);
    if (const cudaError_t error = cudaFreeAsync(more, stream); error != cudaSuccess && status == ZK_OK)
      return failed(error, "cudaFreeAsync");
    return status;
  });
}

}  // namespace
}  // namespace zk::cuda
