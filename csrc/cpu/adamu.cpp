// adamu on the CPU: the rule on each run of tiles, in the instruction set asked for.
#include "adamu_kernels.h"

namespace zk {
namespace {

const AdamuTable* table_of(int isa) {
  if (!zk_cpu_has_isa(isa)) return nullptr;
#ifdef ZK_X86
  if (isa == ZK_AVX512) return &kAdamuAvx512;
  if (isa == ZK_AVX2) return &kAdamuAvx2;
#endif
  return &kAdamuPortable;
}

}  // namespace
}  // namespace zk

extern "C" int zk_cpu_adamu(const zk_tensor* tensors, const zk_state* states, int64_t n_tensors, const zk_adamu* move,
                            int isa, int threads) {
  using namespace zk;
  const AdamuTable* table = table_of(isa);
  if (!table) return ZK_BAD_ISA;
  const States all{states, 1, sizeof(float), move->update != 0};
  return for_runs(tensors, n_tensors, all, 2, threads,
                  [&](const Run& run) { table->run[tensors[run.tensor].dtype][move->update ? 1 : 0](*move, run); });
}
