// perturb on the CPU: cuts the list into chunks, hands them to threads, stages what is not a whole tile.
#include <algorithm>
#include <cstring>
#include <vector>

#include "parallel.h"
#include "perturb_kernels.h"

namespace zk {
namespace {

constexpr int64_t kTile = 256;
constexpr int64_t kChunkTiles = 256;        // 65 536 elements: 30 us at the least
constexpr int64_t kSerialElements = 65536;  // below this a thread costs more than it brings

const PerturbTable* table_of(int isa) {
  if (!zk_cpu_has_isa(isa)) return nullptr;
#ifdef ZK_X86
  if (isa == ZK_AVX512) return &kPerturbAvx512;
  if (isa == ZK_AVX2) return &kPerturbAvx2;
#endif
  return &kPerturbPortable;
}

size_t element_size(int dtype) { return dtype == ZK_F64 ? 8 : dtype == ZK_F32 ? 4 : 2; }

// Memory position, in elements, of logical index `i` of a strided tensor, and the walk to the next.
struct Cursor {
  const zk_tensor& t;
  int64_t index[ZK_MAX_DIMS], src = 0, dst = 0;

  Cursor(const zk_tensor& tensor, int64_t i) : t(tensor) {
    for (int d = t.ndim - 1; d >= 0; --d) {
      index[d] = i % t.sizes[d];
      i /= t.sizes[d];
      src += index[d] * t.src_strides[d];
      dst += index[d] * t.dst_strides[d];
    }
  }
  void next() {
    for (int d = t.ndim - 1; d >= 0; --d) {
      src += t.src_strides[d];
      dst += t.dst_strides[d];
      if (++index[d] < t.sizes[d]) return;
      src -= index[d] * t.src_strides[d];
      dst -= index[d] * t.dst_strides[d];
      index[d] = 0;
    }
  }
};

void copy_element(char* to, const char* from, size_t size) {
  size == 2 ? std::memcpy(to, from, 2) : size == 4 ? std::memcpy(to, from, 4) : std::memcpy(to, from, 8);
}

// Elements [first, first + n) of the tensor lie in one tile: move them through a buffer of a whole tile.
void staged(const zk_tensor& t, const zk_move& move, RunTiles run, int64_t first, int64_t n) {
  alignas(64) char buffer[kTile * 8] = {};
  const size_t size = element_size(t.dtype);
  const uint64_t global = t.offset + static_cast<uint64_t>(first);
  char* start = buffer + (global % kTile) * size;
  const char* src = static_cast<const char*>(t.src);
  char* dst = static_cast<char*>(t.dst);
  if (t.ndim == 0) {
    if (src) std::memcpy(start, src + first * size, n * size);
    run(move, t.stream, buffer, buffer, global / kTile, 1);
    std::memcpy(dst + first * size, start, n * size);
    return;
  }
  if (src) {
    Cursor at(t, first);
    for (int64_t i = 0; i < n; ++i, at.next()) copy_element(start + i * size, src + at.src * size, size);
  }
  run(move, t.stream, buffer, buffer, global / kTile, 1);
  Cursor at(t, first);
  for (int64_t i = 0; i < n; ++i, at.next()) copy_element(dst + at.dst * size, start + i * size, size);
}

// The part of the tensor that lies in tiles [tile, tile + kChunkTiles) of its stream.
void run_chunk(const zk_tensor& t, const zk_move& move, RunTiles run, uint64_t tile) {
  const size_t size = element_size(t.dtype);
  const uint64_t begin = std::max(t.offset, tile * kTile);
  const uint64_t end = std::min(t.offset + static_cast<uint64_t>(t.numel), (tile + kChunkTiles) * kTile);
  uint64_t at = begin;
  while (at < end) {
    const int64_t first = static_cast<int64_t>(at - t.offset);
    if (t.ndim == 0 && at % kTile == 0 && end - at >= kTile) {
      const int64_t n_tiles = static_cast<int64_t>((end - at) / kTile);
      char* dst = static_cast<char*>(t.dst) + first * size;
      const char* src = t.src ? static_cast<const char*>(t.src) + first * size : dst;
      if (!t.src) std::memset(dst, 0, static_cast<size_t>(n_tiles * kTile) * size);
      run(move, t.stream, src, dst, at / kTile, n_tiles);
      at += static_cast<uint64_t>(n_tiles * kTile);
    } else {
      const uint64_t stop = std::min(end, (at / kTile + 1) * kTile);
      staged(t, move, run, first, static_cast<int64_t>(stop - at));
      at = stop;
    }
  }
}

}  // namespace
}  // namespace zk

extern "C" int zk_cpu_perturb(const zk_tensor* tensors, int64_t n_tensors, const zk_move* move, int isa, int threads) {
  using namespace zk;
  const PerturbTable* table = table_of(isa);
  if (!table) return ZK_BAD_ISA;
  const int noise = move->count ? move->distribution : kNoNoise;
  int64_t total = 0;
  std::vector<int64_t> chunks(static_cast<size_t>(n_tensors) + 1, 0);  // chunks before tensor i
  for (int64_t i = 0; i < n_tensors; ++i) {
    const zk_tensor& t = tensors[i];
    if (t.dtype < ZK_F32 || t.dtype > ZK_F64) return ZK_BAD_DTYPE;
    int64_t n = 0;
    if (t.numel > 0) {
      const uint64_t first = t.offset / kTile, last = (t.offset + static_cast<uint64_t>(t.numel) - 1) / kTile;
      n = static_cast<int64_t>((last - first) / kChunkTiles) + 1;
    }
    chunks[static_cast<size_t>(i) + 1] = chunks[static_cast<size_t>(i)] + n;
    total += t.numel;
  }
  const int64_t work = total * std::max<int64_t>(1, move->count);
  parallel_for(chunks.back(), work <= kSerialElements ? 1 : threads, [&](int64_t item) {
    const auto after = std::upper_bound(chunks.begin(), chunks.end(), item);
    const int64_t i = after - chunks.begin() - 1;
    const zk_tensor& t = tensors[i];
    const uint64_t tile = t.offset / kTile + static_cast<uint64_t>(item - chunks[static_cast<size_t>(i)]) * kChunkTiles;
    run_chunk(t, *move, table->run[t.dtype][noise][move->rounding], tile);
  });
  return ZK_OK;
}

extern "C" int zk_cpu_normal_tile(float* out, uint64_t seed, uint32_t stream, uint32_t lane, uint64_t tile, int isa) {
  const zk::PerturbTable* table = zk::table_of(isa);
  if (!table) return ZK_BAD_ISA;
  const float one = 1.0f;
  const zk_move move{&seed, &one, 1, 1.0f, lane, ZK_GAUSSIAN, ZK_NEAREST};
  std::fill(out, out + zk::kTile, 0.0f);
  table->run[ZK_F32][ZK_GAUSSIAN][ZK_NEAREST](move, stream, out, out, tile, 1);
  return ZK_OK;
}
