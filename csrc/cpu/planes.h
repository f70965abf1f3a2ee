// The memories that the elements of one tensor have a place in (source, target, states), their common
// dimensions, and the copies between such a memory and a dense buffer.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>

#include "tiles.h"

namespace zk {

constexpr int kPlanes = 2 + kMaxStates;
constexpr int64_t kLineBytes = 64;

inline int64_t element_size(int dtype) { return dtype == ZK_F64 ? 8 : dtype == ZK_F32 ? 4 : 2; }

// Sizes and strides (in elements), at least one dimension.
struct Layout {
  int ndim;
  int64_t sizes[ZK_MAX_DIMS], strides[ZK_MAX_DIMS];

  int64_t at(int64_t index) const {  // the place of a row-major index
    int64_t place = 0;
    for (int d = ndim - 1; d > 0; --d) {
      place += index % sizes[d] * strides[d];
      index /= sizes[d];
    }
    return place + index * strides[0];
  }
};

struct Plane {
  char* data;
  int64_t size;  // bytes an element
  bool read, written;
  Layout layout;                 // with dimensions joined as this memory allows
  int64_t strides[ZK_MAX_DIMS];  // along the dimensions of Planes
};

// The planes of a tensor. Dimensions of size one are dropped, and those that every plane steps through without
// a gap are joined: one dimension comes out for a dense tensor.
struct Planes {
  const zk_tensor& t;
  int count = 2, ndim = 0;
  int64_t sizes[ZK_MAX_DIMS];
  Plane planes[kPlanes];

  Planes(const zk_tensor& tensor, int64_t index, const States& states, bool reads_source);

  bool in_one_buffer() const { return planes[0].size == planes[1].size; }  // source and target

  int64_t columns() const { return sizes[ndim - 1]; }
  bool contiguous_rows() const {
    for (int k = 0; k < count; ++k) {
      if (planes[k].strides[ndim - 1] != 1) return false;
    }
    return true;
  }

 private:
  void join();
};

// Copies elements `first` .. `first + n` of a plane to a buffer (In) or back.
void copy_range(const Plane& plane, int64_t first, int64_t n, char* buffer, bool in);

// Copies columns [from, to) of up to kMaxRows rows whose elements lie side by side in memory: row b has its
// column k at memory[k * column_stride + b * row_stride] and at rows[b][k]. Cache lines are used whole.
constexpr int kMaxRows = 64;
void copy_columns(const Plane& plane, char* memory, int64_t row_stride, int64_t column_stride, char* const* rows,
                  int n_rows, int64_t from, int64_t to, bool in);

// Copies `n` elements that lie `stride` apart.
void copy_strided(const Plane& plane, char* memory, int64_t stride, int64_t n, char* buffer, bool in);

}  // namespace zk
