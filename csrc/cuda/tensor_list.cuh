// A list of tensors as the parameters of one launch.
//
// The whole table travels as a __grid_constant__ kernel parameter (32,764 bytes from sm_70 and CUDA
// 12.1 on): nothing is allocated or copied, and a captured graph owns it.
//
//   unit    the 8 elements of one stream block; unit u of a tensor holds elements 8(b + u) .. 8(b + u) + 7
//           of the logical tensor, b = offset >> 3. A thread's work. When offset is no multiple of 8 the
//           first unit starts `head` elements before the tensor, and the last may end behind it.
//   tile    kThreads units, one for each thread of a block
//   chunk   `tiles` tiles of one tensor. Chunks are numbered through the list; entry i owns
//           [first_chunk(i), first_chunk(i + 1)). Block k takes chunks k, k + grid, k + 2 grid, ...
//
// Host and device; the planner at the end is host code without any CUDA call, so that tests run the
// very same map with an ordinary compiler (tests/cuda/emulate.cpp).
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <type_traits>
#include <vector>

#include "../core/convert.h"
#include "../zokern.h"

namespace zk::cuda {

constexpr uint32_t kThreads = 256;
constexpr uint32_t kUnit = 8;
constexpr uint32_t kMaxTiles = 32;        // 65,536 elements a chunk
constexpr uint32_t kChunksPerBlock = 16;  // fewer tiles a chunk until every block has so many
constexpr int kParamTerms = 64;           // seeds in the parameters; more are read from memory
constexpr size_t kParamBytes = 32764;

struct alignas(16) Term {
  uint32_t key0, key1;
  float scale;
  float second;  // adam: the displacement, beside the gradient in `scale`
};

struct Dense {
  const char* src;  // of the first unit, `head` elements before the tensor; null reads zeros
  char* dst;
  uint64_t block;  // stream block of the first unit
  uint64_t end;    // elements from the start of the first unit to the end of the tensor
  uint32_t stream;
  uint32_t first_chunk;
  uint8_t head;       // elements of the first unit that lie before the tensor
  uint8_t dtype;      // of src
  uint8_t out_dtype;  // of dst; another only in the general kernel
  uint8_t vector;     // src and dst are 16-byte aligned at every unit
};

// Any strides. Element i of unit u has logical index 8u + i - head, taken apart by sizes.
struct Strided : Dense {
  int32_t ndim;
  int64_t sizes[ZK_MAX_DIMS];
  int64_t src_strides[ZK_MAX_DIMS];
  int64_t dst_strides[ZK_MAX_DIMS];
};

struct Header {
  uint32_t chunks;
  uint32_t tensors;
  uint32_t tiles;  // a chunk
  uint32_t lane;
  int32_t count;  // terms
  float scale;    // of the first term
  float decay;
  int32_t distribution;
  int32_t rounding;
  const Term* more;                  // all terms in device memory; null: they are in `terms`
  uint32_t keys[2 * kPhiloxRounds];  // round keys of the first seed: k0, k1 of round 0, of round 1, ...
  Term terms[kParamTerms];
};

template <class Entry, int N>
struct Params : Header {
  using entry_type = Entry;
  static constexpr int kCapacity = N;
  Entry entries[N];
};

constexpr int kFew = 40;  // a small launch: under the 4 KB that older drivers took as the limit
constexpr int kMany = 640;
constexpr int kStrided = 120;
using FewDense = Params<Dense, kFew>;
using ManyDense = Params<Dense, kMany>;
using ManyStrided = Params<Strided, kStrided>;
static_assert(sizeof(FewDense) <= 4096 && sizeof(ManyDense) <= kParamBytes && sizeof(ManyStrided) <= kParamBytes);

// The entry that owns `chunk`: the last one whose first chunk is not behind it.
template <class Entry>
ZK_INLINE uint32_t find_entry(const Entry* entries, uint32_t count, uint32_t chunk) {
  uint32_t low = 0, high = count;  // entries[low] starts at or before chunk, entries[high] behind it
  while (high - low > 1) {
    const uint32_t middle = (low + high) / 2;
    if (entries[middle].first_chunk <= chunk)
      low = middle;
    else
      high = middle;
  }
  return low;
}

ZK_INLINE uint64_t units_of(const Dense& entry) { return (entry.end + kUnit - 1) / kUnit; }

// ---- host: zk_tensor list -> launches

inline int item_size(int dtype) { return dtype == ZK_F64 ? 8 : dtype == ZK_F32 ? 4 : 2; }

// Drops dimensions of size one and joins those that both layouts step through without a gap.
// ndim 1 with stride 1 on both sides comes out for a dense tensor.
inline void set_layout(const zk_tensor& tensor, Strided& entry) {
  int n = 0;
  const int ndim = tensor.ndim > 0 ? tensor.ndim : 1;
  for (int d = 0; d < ndim; ++d) {
    const int64_t size = tensor.ndim > 0 ? tensor.sizes[d] : tensor.numel;
    const int64_t src = tensor.ndim > 0 ? tensor.src_strides[d] : 1, dst = tensor.ndim > 0 ? tensor.dst_strides[d] : 1;
    if (size == 1) continue;
    const bool joined = n > 0 && entry.src_strides[n - 1] == size * src && entry.dst_strides[n - 1] == size * dst;
    if (joined) {
      entry.sizes[n - 1] *= size;
    } else {
      entry.sizes[n++] = size;
    }
    entry.src_strides[n - 1] = src;
    entry.dst_strides[n - 1] = dst;
  }
  if (n == 0) {
    entry.sizes[0] = entry.src_strides[0] = entry.dst_strides[0] = 1;
    n = 1;
  }
  entry.ndim = n;
}

// `reads`: whether the source is read; else it is taken as zeros.
inline Dense dense_entry(const zk_tensor& tensor, bool shifted, bool reads = true) {
  Dense entry{};
  const int dtype = source_dtype(tensor.dtype);
  entry.head = static_cast<uint8_t>(tensor.offset % kUnit);
  entry.dtype = static_cast<uint8_t>(dtype);
  entry.out_dtype = static_cast<uint8_t>(target_dtype(tensor.dtype));
  entry.stream = tensor.stream;
  entry.block = tensor.offset / kUnit;
  entry.end = static_cast<uint64_t>(tensor.numel) + entry.head;
  const uintptr_t shift = shifted ? static_cast<uintptr_t>(entry.head * item_size(dtype)) : 0;
  const uintptr_t src = reinterpret_cast<uintptr_t>(tensor.src), dst = reinterpret_cast<uintptr_t>(tensor.dst);
  entry.src = tensor.src && reads ? reinterpret_cast<const char*>(src - shift) : nullptr;
  entry.dst = reinterpret_cast<char*>(dst - shift);
  entry.vector = (entry.src == nullptr || (src - shift) % 16 == 0) && (dst - shift) % 16 == 0;
  return entry;
}

inline Term make_term(uint64_t seed, float scale, float second = 0.0f) {
  return Term{static_cast<uint32_t>(seed), static_cast<uint32_t>(seed >> 32), scale, second};
}

inline void set_move(const zk_move& move, const Term* more, Header& header) {
  header.count = static_cast<int32_t>(move.count);
  header.scale = move.count > 0 ? move.scales[0] : 0.0f;
  header.decay = move.decay;
  header.lane = move.lane;
  header.distribution = move.distribution;
  header.rounding = move.rounding;
  header.more = more;
  if (!more)
    for (int64_t k = 0; k < move.count; ++k) header.terms[k] = make_term(move.seeds[k], move.scales[k]);
  const uint64_t seed = move.count > 0 ? move.seeds[0] : 0;
  for (uint32_t round = 0; round < kPhiloxRounds; ++round) {
    header.keys[2 * round] = static_cast<uint32_t>(seed) + round * kPhiloxW0;
    header.keys[2 * round + 1] = static_cast<uint32_t>(seed >> 32) + round * kPhiloxW1;
  }
}

// Chunk sizes and numbers for the entries in place. `blocks` is how many blocks the device holds at
// once: long chunks cost less, short ones leave less of the grid idle in the last round.
template <class P>
inline void number_chunks(P& params, uint32_t blocks) {
  uint64_t tiles = 0;
  for (uint32_t i = 0; i < params.tensors; ++i) tiles += (units_of(params.entries[i]) + kThreads - 1) / kThreads;
  const uint64_t share = tiles / (static_cast<uint64_t>(std::max(blocks, 1u)) * kChunksPerBlock);
  params.tiles = static_cast<uint32_t>(std::clamp<uint64_t>(share, 1, kMaxTiles));
  // 32-bit chunk numbers reach 2^46 elements, more than a device holds.
  const uint64_t units = static_cast<uint64_t>(params.tiles) * kThreads;
  params.chunks = 0;
  for (uint32_t i = 0; i < params.tensors; ++i) {
    params.entries[i].first_chunk = params.chunks;
    params.chunks += static_cast<uint32_t>((units_of(params.entries[i]) + units - 1) / units);
  }
}

// Cuts the list into launches: `launch(params)` for each, dense fp32, bf16 and fp16 tensors first, all of
// them in one launch up to kMany. Strided and fp64 tensors, and those whose target has another dtype than their
// source, go to the general kernel.
template <class Launch>
inline int plan(const zk_tensor* tensors, int64_t n_tensors, const zk_move& move, const Term* more, Launch&& launch) {
  const bool reads = move.decay != 0.0f;
  std::vector<int64_t> dense, general;
  for (int64_t i = 0; i < n_tensors; ++i) {
    const zk_tensor& tensor = tensors[i];
    const int from = source_dtype(tensor.dtype), to = target_dtype(tensor.dtype);
    if (!is_dtype(from) || !is_dtype(to)) return ZK_BAD_DTYPE;
    if (tensor.numel <= 0) continue;
    (tensor.ndim == 0 && from == to && from != ZK_F64 ? dense : general).push_back(i);
  }
  const auto send = [&](auto params, const int64_t* first, size_t count) {
    set_move(move, more, params);
    params.tensors = static_cast<uint32_t>(count);
    for (size_t i = 0; i < count; ++i) {
      const zk_tensor& tensor = tensors[first[i]];
      if constexpr (std::is_same_v<typename decltype(params)::entry_type, Strided>) {
        static_cast<Dense&>(params.entries[i]) = dense_entry(tensor, false, reads);
        set_layout(tensor, params.entries[i]);
      } else {
        params.entries[i] = dense_entry(tensor, true, reads);
      }
    }
    return launch(params);
  };
  for (size_t i = 0; i < dense.size();) {
    const size_t left = dense.size() - i, count = std::min<size_t>(left, kMany);
    const int status = left <= kFew ? send(FewDense{}, &dense[i], count) : send(ManyDense{}, &dense[i], count);
    if (status != ZK_OK) return status;
    i += count;
  }
  for (size_t i = 0; i < general.size();) {
    const size_t count = std::min<size_t>(general.size() - i, kStrided);
    const int status = send(ManyStrided{}, &general[i], count);
    if (status != ZK_OK) return status;
    i += count;
  }
  return ZK_OK;
}

// Which dense kernel a move takes. fp32 ignores the rounding mode, so a launch of fp32 tensors alone
// takes the nearest one.
struct Variant {
  bool single;  // one Gaussian term, nearest, decay 1, no null source: the probe of every optimizer
  bool rademacher;
  bool stochastic;
};

template <class P>
inline Variant choose(const P& params) {
  bool sources = true, narrow = false;
  for (uint32_t i = 0; i < params.tensors; ++i) {
    sources = sources && params.entries[i].src != nullptr;
    narrow = narrow || params.entries[i].dtype != ZK_F32;
  }
  Variant variant{};
  variant.rademacher = params.distribution == ZK_RADEMACHER;
  variant.stochastic = params.rounding == ZK_STOCHASTIC && narrow;
  variant.single = params.count == 1 && params.decay == 1.0f && !params.more && sources && !variant.rademacher &&
                   !variant.stochastic;
  return variant;
}

}  // namespace zk::cuda
