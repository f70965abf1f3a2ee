// perturb and its masked form on the CPU: the move of each run of tiles, in the instruction set asked for.
#include <algorithm>

#include "../core/masked.h"
#include "perturb_kernels.h"
#include "tiles.h"

namespace zk {
namespace {

const PerturbTable* table_of(int isa) {
  if (!zk_cpu_has_isa(isa)) return nullptr;
#ifdef ZK_X86
  if (isa == ZK_AVX512) return &kPerturbAvx512;
  if (isa == ZK_AVX2) return &kPerturbAvx2;
#endif
  return &kPerturbPortable;
}

int noise_of(const zk_move& move) { return move.count ? move.distribution : kNoNoise; }

}  // namespace
}  // namespace zk

extern "C" int zk_cpu_perturb(const zk_tensor* tensors, int64_t n_tensors, const zk_move* move, int isa, int threads) {
  using namespace zk;
  const PerturbTable* table = table_of(isa);
  if (!table) return ZK_BAD_ISA;
  return for_runs(tensors, n_tensors, {}, move->count, threads, [&](const Run& r) {
    const RunTiles run = table->run[tensors[r.tensor].dtype][noise_of(*move)][move->rounding];
    run(*move, r.stream, r.src, r.dst, r.tile, r.n_tiles);
  });
}

// The move goes to a buffer; the merge takes it or the source, element by element.
extern "C" int zk_cpu_perturb_masked(const zk_tensor* tensors, const zk_state* masks, const float* thresholds,
                                     int64_t n_tensors, const zk_move* move, int isa, int threads) {
  using namespace zk;
  const PerturbTable* table = table_of(isa);
  if (!table) return ZK_BAD_ISA;
  const States states{masks, masks ? 1 : 0, 1, false};
  return for_runs(tensors, n_tensors, states, move->count, threads, [&](const Run& r) {
    constexpr int64_t kStrip = 16;
    alignas(64) char moved[kStrip * 256 * 8];
    const int dtype = tensors[r.tensor].dtype;
    const int64_t tile_bytes = 256 * (dtype == ZK_F64 ? 8 : dtype == ZK_F32 ? 4 : 2);
    const uint64_t limit = masks ? 0 : magnitude_limit(thresholds[r.tensor], dtype);
    for (int64_t done = 0; done < r.n_tiles; done += kStrip) {
      const int64_t n = std::min(kStrip, r.n_tiles - done);
      const char* src = static_cast<const char*>(r.src) + done * tile_bytes;
      char* dst = static_cast<char*>(r.dst) + done * tile_bytes;
      const uint8_t* mask = masks ? static_cast<const uint8_t*>(r.states[0]) + done * 256 : nullptr;
      const uint64_t tile = r.tile + static_cast<uint64_t>(done);
      table->run[dtype][noise_of(*move)][move->rounding](*move, r.stream, src, moved, tile, n);
      table->merge[dtype](src, moved, dst, mask, limit, n * 256);
    }
  });
}

extern "C" int zk_cpu_normal_tile(float* out, uint64_t seed, uint32_t stream, uint32_t lane, uint64_t tile, int isa) {
  const zk::PerturbTable* table = zk::table_of(isa);
  if (!table) return ZK_BAD_ISA;
  const float one = 1.0f;
  const zk_move move{&seed, &one, 1, 1.0f, lane, ZK_GAUSSIAN, ZK_NEAREST};
  std::fill(out, out + 256, 0.0f);
  table->run[ZK_F32][ZK_GAUSSIAN][ZK_NEAREST](move, stream, out, out, tile, 1);
  return ZK_OK;
}
