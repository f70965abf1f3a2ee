// perturb_masked on the CPU: the move of each run of tiles, merged with what was there.
#include "../core/masked.h"

#include <algorithm>

#include "tables.h"
#include "tiles.h"

// The move goes to a buffer; the merge takes it or the source, element by element.
extern "C" int zk_cpu_perturb_masked(const zk_tensor* tensors, const zk_state* masks, const float* thresholds,
                                     int64_t n_tensors, const zk_move* move, int isa, int threads) {
  using namespace zk;
  const Tables* tables = tables_of(isa);
  if (!tables) return ZK_BAD_ISA;
  const States states{masks, masks ? 1 : 0, 1, false};
  return for_runs(tensors, n_tensors, states, {}, move->count, threads, [&](const Run& r) {
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
      tables->perturb.run[dtype][noise_of(*move)][move->rounding](*move, r.stream, src, moved, tile, n);
      tables->masked.merge[dtype](src, moved, dst, mask, limit, n * 256);
    }
  });
}
