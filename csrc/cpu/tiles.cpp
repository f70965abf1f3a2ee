// The list on the CPU: cuts it into chunks, hands them to threads, stages what is not a whole tile in memory.
#include "tiles.h"

#include <vector>

#include "../core/convert.h"
#include "blocks.h"
#include "parallel.h"

namespace zk {
namespace {

constexpr int64_t kChunkTiles = 256;        // 65 536 elements: 30 us at the least
constexpr int64_t kSerialElements = 65536;  // below this a thread costs more than it brings
constexpr int64_t kStagedTiles = 8;         // that go through the buffers together
constexpr int64_t kLongRow = 8 * kTile;     // rows from here on are worked on where they lie, but for their ends

using Body = std::function<void(const Run&)>;

// Elements [first, first + n) of the tensor lie in at most kStagedTiles tiles: move them through buffers.
void staged(const Planes& p, int64_t tensor, int64_t first, int64_t n, const Body& body) {
  alignas(64) char buffers[kPlanes][kStagedTiles * kTile * 8];
  const uint64_t global = p.t.offset + static_cast<uint64_t>(first);
  const int64_t before = static_cast<int64_t>(global % kTile), n_tiles = (before + n + kTile - 1) / kTile;
  for (int k = 0; k < p.count; ++k) {
    const Plane& plane = p.planes[k];
    if (!plane.read) continue;
    const size_t head = static_cast<size_t>(before * plane.size), all = static_cast<size_t>(n * plane.size);
    std::memset(buffers[k], 0, head);
    std::memset(buffers[k] + head + all, 0, static_cast<size_t>(n_tiles * kTile * plane.size) - head - all);
    copy_range(plane, first, n, buffers[k] + head, true);
  }
  char* target = buffers[p.in_one_buffer() ? 0 : 1];
  const auto at = [&](int k) { return k == 1 ? target : buffers[k]; };
  body({tensor,
        p.t.stream,
        global / kTile,
        n_tiles,
        p.planes[0].read ? buffers[0] : nullptr,
        target,
        {buffers[2], buffers[3], buffers[4]}});
  for (int k = 1; k < p.count; ++k) {
    if (p.planes[k].written) copy_range(p.planes[k], first, n, at(k) + before * p.planes[k].size, false);
  }
}

// `n_tiles` whole tiles from element `first`, which every plane holds without gaps.
void direct(const Planes& p, int64_t tensor, int64_t first, int64_t n_tiles, const Body& body) {
  const auto from = [&](int k) { return p.planes[k].data + p.planes[k].layout.at(first) * p.planes[k].size; };
  const uint64_t tile = (p.t.offset + static_cast<uint64_t>(first)) / kTile;
  Run run{tensor, p.t.stream, tile, n_tiles, p.planes[0].read ? from(0) : nullptr, from(1), {}};
  for (int k = 2; k < p.count; ++k) run.states[k - 2] = from(k);
  body(run);
}

// The part of the tensor that lies in tiles [tile, tile + kChunkTiles) of its stream.
void run_chunk(const Planes& p, int64_t tensor, uint64_t tile, const Body& body) {
  const zk_tensor& t = p.t;
  const uint64_t begin = std::max(t.offset, tile * kTile);
  const uint64_t end = std::min(t.offset + static_cast<uint64_t>(t.numel), (tile + kChunkTiles) * kTile);
  const int64_t row = p.columns();
  const bool contiguous = p.contiguous_rows(), aligned = row % kTile == 0 && t.offset % kTile == 0;
  const bool in_place = contiguous && (p.ndim == 1 || aligned || row >= kLongRow);
  const int64_t at_once = in_place ? 1 : kStagedTiles;
  uint64_t at = begin;
  while (at < end) {
    const int64_t first = static_cast<int64_t>(at - t.offset);
    const int64_t left = std::min(static_cast<int64_t>(end - at), row - (p.ndim == 1 ? first : first % row));
    if (in_place && at % kTile == 0 && left >= kTile) {
      direct(p, tensor, first, left / kTile, body);
      at += static_cast<uint64_t>(left / kTile * kTile);
    } else {
      const uint64_t stop = std::min(end, (at / kTile + static_cast<uint64_t>(at_once)) * kTile);
      staged(p, tensor, first, static_cast<int64_t>(stop - at), body);
      at = stop;
    }
  }
}

// How many items of work a tensor is.
int64_t items_of(const zk_tensor& t, const Planes* strided) {
  if (t.numel <= 0) return 0;
  if (strided) {
    const Blocks blocks(*strided);
    if (blocks.useful()) return blocks.items();
  }
  const uint64_t first = t.offset / kTile, last = (t.offset + static_cast<uint64_t>(t.numel) - 1) / kTile;
  return static_cast<int64_t>((last - first) / kChunkTiles) + 1;
}

}  // namespace

int for_runs(const zk_tensor* tensors, int64_t n_tensors, const States& states, const Reads& reads, int64_t work,
             int threads, const Body& body) {
  int64_t total = 0;
  std::vector<int64_t> items(static_cast<size_t>(n_tensors) + 1, 0);  // items before tensor i
  for (int64_t i = 0; i < n_tensors; ++i) {
    const zk_tensor& t = tensors[i];
    if (!is_dtype(source_dtype(t.dtype)) || !is_dtype(target_dtype(t.dtype))) return ZK_BAD_DTYPE;
    if (!reads.mixed && source_dtype(t.dtype) != target_dtype(t.dtype)) return ZK_BAD_DTYPE;
    int64_t n;
    if (t.ndim) {
      const Planes planes(t, i, states, reads.source);
      n = items_of(t, &planes);
    } else {
      n = items_of(t, nullptr);
    }
    items[static_cast<size_t>(i) + 1] = items[static_cast<size_t>(i)] + n;
    total += t.numel;
  }
  const bool serial = total * std::max<int64_t>(1, work) <= kSerialElements;
  parallel_for(items.back(), serial ? 1 : threads, [&](int64_t item) {
    const auto after = std::upper_bound(items.begin(), items.end(), item);
    const int64_t i = after - items.begin() - 1, mine = item - items[static_cast<size_t>(i)];
    const Planes planes(tensors[i], i, states, reads.source);
    const Blocks blocks(planes);
    if (blocks.useful()) return blocks.run(i, mine, body);
    const uint64_t first = tensors[i].offset / kTile;
    run_chunk(planes, i, first + static_cast<uint64_t>(mine * kChunkTiles), body);
  });
  return ZK_OK;
}

}  // namespace zk
