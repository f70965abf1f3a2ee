// adam on the CPU: the rule on each run of tiles, in the instruction set asked for.
#include "adam_kernels.h"

namespace zk {
namespace {

const AdamTable* table_of(int isa) {
  if (!zk_cpu_has_isa(isa)) return nullptr;
#ifdef ZK_X86
  if (isa == ZK_AVX512) return &kAdamAvx512;
  if (isa == ZK_AVX2) return &kAdamAvx2;
#endif
  return &kAdamPortable;
}

}  // namespace
}  // namespace zk

extern "C" int zk_cpu_adam(const zk_tensor* tensors, const zk_state* states, int64_t n_tensors, const zk_adam* move,
                           int isa, int threads) {
  using namespace zk;
  const AdamTable* table = table_of(isa);
  if (!table) return ZK_BAD_ISA;
  const States all{states, move->variant == ZK_ADAMM ? 3 : 2, sizeof(float), true};
  return for_runs(tensors, n_tensors, all, 2 * move->count, threads,
                  [&](const Run& run) { table->run[tensors[run.tensor].dtype][move->distribution](*move, run); });
}
