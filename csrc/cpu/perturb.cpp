// perturb on the CPU: the move of each run of tiles, in the instruction set asked for.
#include "../core/convert.h"
#include "tables.h"
#include "tiles.h"

extern "C" int zk_cpu_perturb(const zk_tensor* tensors, int64_t n_tensors, const zk_move* move, int isa, int threads) {
  using namespace zk;
  const Tables* tables = tables_of(isa);
  if (!tables) return ZK_BAD_ISA;
  const Reads reads{move->decay != 0.0f, true};
  return for_runs(tensors, n_tensors, {}, reads, move->count, threads, [&](const Run& r) {
    const int from = source_dtype(tensors[r.tensor].dtype), to = target_dtype(tensors[r.tensor].dtype);
    if (from != to) return tables->perturb.mixed(*move, from, to, r.stream, r.src, r.dst, r.tile, r.n_tiles);
    const RunTiles run = tables->perturb.run[from][noise_of(*move)][move->rounding];
    run(*move, r.stream, r.src, r.dst, r.tile, r.n_tiles);
  });
}

extern "C" int zk_cpu_normal_tile(float* out, uint64_t seed, uint32_t stream, uint32_t lane, uint64_t tile, int isa) {
  const zk::Tables* tables = zk::tables_of(isa);
  if (!tables) return ZK_BAD_ISA;
  const float one = 1.0f;
  const zk_move move{&seed, &one, 1, 0.0f, lane, ZK_GAUSSIAN, ZK_NEAREST};
  tables->perturb.run[ZK_F32][ZK_GAUSSIAN][ZK_NEAREST](move, stream, nullptr, out, tile, 1);
  return ZK_OK;
}
