// adam on the CPU: the rule on each run of tiles, in the instruction set asked for.
#include "tables.h"
#include "tiles.h"

extern "C" int zk_cpu_adam(const zk_tensor* tensors, const zk_state* states, int64_t n_tensors, const zk_adam* move,
                           int isa, int threads) {
  using namespace zk;
  const Tables* tables = tables_of(isa);
  if (!tables) return ZK_BAD_ISA;
  const States all{states, move->variant == ZK_ADAMM ? 3 : 2, sizeof(float), true};
  return for_runs(tensors, n_tensors, all, {}, 2 * move->count, threads,
                  [&](const Run& run) { tables->adam.run[tensors[run.tensor].dtype][move->distribution](*move, run); });
}
