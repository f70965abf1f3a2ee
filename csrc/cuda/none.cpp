// The CUDA entry points of a build without CUDA kernels; setup.py says why there are none.
#include "../zokern.h"

#ifndef ZK_NO_CUDA_REASON
#define ZK_NO_CUDA_REASON "no nvcc was found"
#endif

extern "C" int zk_cuda_perturb(const zk_tensor*, int64_t, const zk_move*, int, void*) { return ZK_NO_CUDA; }

extern "C" int zk_cuda_perturb_masked(const zk_tensor*, const zk_state*, const float*, int64_t, const zk_move*, int,
                                      void*) {
  return ZK_NO_CUDA;
}

extern "C" int zk_cuda_adam(const zk_tensor*, const zk_state*, int64_t, const zk_adam*, int, void*) {
  return ZK_NO_CUDA;
}

extern "C" int zk_cuda_adamu(const zk_tensor*, const zk_state*, int64_t, const zk_adamu*, int, void*) {
  return ZK_NO_CUDA;
}

extern "C" int64_t zk_cuda_tt_halves_workspace(const zk_tt*, int64_t) { return 0; }

extern "C" int64_t zk_cuda_tt_workspace(const zk_tt*, int, const zk_tt_rows*, int) { return 0; }

extern "C" int zk_cuda_tt_halves(const zk_tt*, float*, float*, int64_t, float*, int, void*) { return ZK_NO_CUDA; }

extern "C" int zk_cuda_tt_rows(const zk_tt*, int, float, int, const zk_tt_rows*, const zk_tt_noise*, float*, int,
                               void*) {
  return ZK_NO_CUDA;
}

extern "C" int zk_cuda_device_count(void) { return 0; }

extern "C" const char* zk_cuda_last_error(void) { return "no CUDA kernels in this build: " ZK_NO_CUDA_REASON; }
