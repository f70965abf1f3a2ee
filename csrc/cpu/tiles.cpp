// The list on the CPU: cuts it into chunks, hands them to threads, stages what is not a whole tile.
#include "tiles.h"

#include <algorithm>
#include <cstring>
#include <vector>

#include "parallel.h"

namespace zk {
namespace {

constexpr int64_t kTile = 256;
constexpr int64_t kChunkTiles = 256;        // 65 536 elements: 30 us at the least
constexpr int64_t kSerialElements = 65536;  // below this a thread costs more than it brings
constexpr int kPlanes = 2 + kMaxStates;

size_t element_size(int dtype) { return dtype == ZK_F64 ? 8 : dtype == ZK_F32 ? 4 : 2; }

// One of the memories that an element has a place in: source, target, state.
struct Plane {
  char* data;
  size_t size;
  const int64_t* strides;
  bool read, written;
};

struct Planes {
  const zk_tensor& t;
  int count = 2;
  Plane planes[kPlanes];

  Planes(const zk_tensor& tensor, int64_t index, const States& states) : t(tensor) {
    const size_t size = element_size(t.dtype);
    planes[0] = {static_cast<char*>(const_cast<void*>(t.src)), size, t.src_strides, t.src != nullptr, false};
    planes[1] = {static_cast<char*>(t.dst), size, t.dst_strides, false, true};
    for (int s = 0; s < states.count; ++s) {
      const zk_state& state = states.all[index * states.count + s];
      planes[count++] = {static_cast<char*>(state.data), states.size, state.strides, true, states.written};
    }
  }
};

// Memory positions, in elements, of logical index `i` of a strided tensor, and the walk to the next.
struct Cursor {
  const Planes& p;
  int64_t index[ZK_MAX_DIMS], at[kPlanes] = {};

  Cursor(const Planes& planes, int64_t i) : p(planes) {
    for (int d = p.t.ndim - 1; d >= 0; --d) {
      index[d] = i % p.t.sizes[d];
      i /= p.t.sizes[d];
      for (int k = 0; k < p.count; ++k) at[k] += index[d] * p.planes[k].strides[d];
    }
  }
  void next() {
    for (int d = p.t.ndim - 1; d >= 0; --d) {
      for (int k = 0; k < p.count; ++k) at[k] += p.planes[k].strides[d];
      if (++index[d] < p.t.sizes[d]) return;
      for (int k = 0; k < p.count; ++k) at[k] -= index[d] * p.planes[k].strides[d];
      index[d] = 0;
    }
  }
};

void copy_element(char* to, const char* from, size_t size) {
  if (size == 1) std::memcpy(to, from, 1);
  if (size == 2) std::memcpy(to, from, 2);
  if (size == 4) std::memcpy(to, from, 4);
  if (size == 8) std::memcpy(to, from, 8);
}

using Body = std::function<void(const Run&)>;

// Elements [first, first + n) of the tensor lie in one tile: move them through buffers of a whole tile.
void staged(const Planes& p, int64_t tensor, int64_t first, int64_t n, const Body& body) {
  alignas(64) char buffers[kPlanes - 1][kTile * 8] = {};  // source and target share the first
  const uint64_t global = p.t.offset + static_cast<uint64_t>(first);
  const auto place = [&](int k) { return buffers[k ? k - 1 : 0] + (global % kTile) * p.planes[k].size; };
  const auto move = [&](bool in) {
    for (int k = 0; k < p.count; ++k) {
      const Plane& plane = p.planes[k];
      if (p.t.ndim || !(in ? plane.read : plane.written)) continue;
      char* memory = plane.data + first * static_cast<int64_t>(plane.size);
      const size_t bytes = static_cast<size_t>(n) * plane.size;
      in ? std::memcpy(place(k), memory, bytes) : std::memcpy(memory, place(k), bytes);
    }
    if (!p.t.ndim) return;
    Cursor cursor(p, first);
    for (int64_t i = 0; i < n; ++i, cursor.next()) {
      for (int k = 0; k < p.count; ++k) {
        const Plane& plane = p.planes[k];
        if (!(in ? plane.read : plane.written)) continue;
        char* memory = plane.data + cursor.at[k] * static_cast<int64_t>(plane.size);
        char* here = place(k) + i * static_cast<int64_t>(plane.size);
        in ? copy_element(here, memory, plane.size) : copy_element(memory, here, plane.size);
      }
    }
  };
  move(true);
  body({tensor, p.t.stream, global / kTile, 1, buffers[0], buffers[0], {buffers[1], buffers[2], buffers[3]}});
  move(false);
}

// The part of the tensor that lies in tiles [tile, tile + kChunkTiles) of its stream.
void run_chunk(const Planes& p, int64_t tensor, uint64_t tile, const Body& body) {
  const zk_tensor& t = p.t;
  const uint64_t begin = std::max(t.offset, tile * kTile);
  const uint64_t end = std::min(t.offset + static_cast<uint64_t>(t.numel), (tile + kChunkTiles) * kTile);
  uint64_t at = begin;
  while (at < end) {
    const int64_t first = static_cast<int64_t>(at - t.offset);
    if (t.ndim == 0 && at % kTile == 0 && end - at >= kTile) {
      const int64_t n_tiles = static_cast<int64_t>((end - at) / kTile);
      const auto from = [&](int k) { return p.planes[k].data + first * static_cast<int64_t>(p.planes[k].size); };
      Run run{tensor, t.stream, at / kTile, n_tiles, t.src ? from(0) : from(1), from(1), {}};
      for (int k = 2; k < p.count; ++k) run.states[k - 2] = from(k);
      if (!t.src) std::memset(run.dst, 0, static_cast<size_t>(n_tiles * kTile) * p.planes[1].size);
      body(run);
      at += static_cast<uint64_t>(n_tiles * kTile);
    } else {
      const uint64_t stop = std::min(end, (at / kTile + 1) * kTile);
      staged(p, tensor, first, static_cast<int64_t>(stop - at), body);
      at = stop;
    }
  }
}

}  // namespace

int for_runs(const zk_tensor* tensors, int64_t n_tensors, const States& states, int64_t work, int threads,
             const Body& body) {
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
  const bool serial = total * std::max<int64_t>(1, work) <= kSerialElements;
  parallel_for(chunks.back(), serial ? 1 : threads, [&](int64_t item) {
    const auto after = std::upper_bound(chunks.begin(), chunks.end(), item);
    const int64_t i = after - chunks.begin() - 1;
    const uint64_t first = tensors[i].offset / kTile;
    const uint64_t chunk = static_cast<uint64_t>(item - chunks[static_cast<size_t>(i)]);
    run_chunk(Planes(tensors[i], i, states), i, first + chunk * kChunkTiles, body);
  });
  return ZK_OK;
}

}  // namespace zk
