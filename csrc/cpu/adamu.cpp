// adamu on the CPU: the rule on each run of tiles, in the instruction set asked for.
#include "tables.h"
#include "tiles.h"

extern "C" int zk_cpu_adamu(const zk_tensor* tensors, const zk_state* states, int64_t n_tensors, const zk_adamu* move,
                            int isa, int threads) {
  using namespace zk;
  const Tables* tables = tables_of(isa);
  if (!tables) return ZK_BAD_ISA;
  const States all{states, 1, sizeof(float), move->update != 0};
  return for_runs(tensors, n_tensors, all, {}, 2, threads, [&](const Run& run) {
    tables->adamu.run[tensors[run.tensor].dtype][move->update ? 1 : 0](*move, run);
  });
}
