// Cuts a list of tensors into runs of whole tiles and hands them to threads.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>

#include "../zokern.h"

namespace zk {

constexpr int kMaxStates = 3;

// `n_tiles` whole tiles of 256 elements of one tensor, dense, the first being tile `tile` of its stream.
// Where a tensor is strided, or begins or ends inside a tile, these are copies of one tile.
struct Run {
  int64_t tensor;  // its number in the list
  uint32_t stream;
  uint64_t tile;
  int64_t n_tiles;
  const void* src;  // null: zeros
  void* dst;
  void* states[kMaxStates];
};

// The state of every tensor: `count` tensors of its shape with elements of `size` bytes.
struct States {
  const zk_state* all = nullptr;  // those of tensor 0, then of tensor 1, ...
  int count = 0;
  size_t size = 0;
  bool written = false;
};

// What a pass can do without.
struct Reads {
  bool source = true;  // whether it reads the source
  bool mixed = false;  // whether it takes a source and a target of different dtypes
};

// Calls body(run) for all of the list; `work` is how many normals an element costs, about.
int for_runs(const zk_tensor* tensors, int64_t n_tensors, const States& states, const Reads& reads, int64_t work,
             int threads, const std::function<void(const Run&)>& body);

}  // namespace zk
