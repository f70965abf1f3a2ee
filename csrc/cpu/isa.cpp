// What this machine and this process offer: instruction sets with their kernels, an OpenMP runtime.
#include "../zokern.h"
#include "parallel.h"
#include "tables.h"
#include "tuning.h"

namespace zk {
std::atomic<OpenMpParallel> openmp_parallel{nullptr};

const Tables* tables_of(int isa) {
  if (!zk_cpu_has_isa(isa)) return nullptr;
#ifdef ZK_X86
  if (isa == ZK_AVX512) return &kAvx512;
  if (isa == ZK_AVX2) return &kAvx2;
#endif
  return &kPortable;
}

}  // namespace zk

extern "C" void zk_cpu_use_openmp(void* gomp_parallel) {
  zk::openmp_parallel = reinterpret_cast<zk::OpenMpParallel>(gomp_parallel);
}

extern "C" int zk_cpu_has_isa(int isa) {
  if (isa == ZK_PORTABLE) return 1;
#ifdef ZK_X86
  __builtin_cpu_init();
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
  if (isa == ZK_AVX2) return avx2;
  if (isa == ZK_AVX512) {
    return avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
  }
#endif
  return 0;
}

extern "C" int zk_cpu_best_isa(void) {
  if (zk_cpu_has_isa(zk::tuning.isa)) return zk::tuning.isa;
  return zk_cpu_has_isa(ZK_AVX512) ? ZK_AVX512 : zk_cpu_has_isa(ZK_AVX2) ? ZK_AVX2 : ZK_PORTABLE;
}

extern "C" const char* zk_status_string(int status) {
  switch (status) {
    case ZK_OK:
      return "ok";
    case ZK_BAD_DTYPE:
      return "unknown dtype";
    case ZK_BAD_ISA:
      return "this machine does not run the instruction set asked for";
    case ZK_NO_CUDA:
      return "built without CUDA";
    case ZK_CUDA_ERROR:
      return "CUDA reported an error";
    case ZK_NO_MEMORY:
      return "out of memory";
    case ZK_TOO_LARGE:
      return "the tensor train has more cores or larger sizes than the kernel takes";
    default:
      return "unknown status";
  }
}
