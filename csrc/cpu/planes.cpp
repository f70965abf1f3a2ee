// Strided memory to dense buffers and back.
#include "planes.h"

#include "../core/convert.h"
#include "transpose.h"

namespace zk {
namespace {

// Appends a dimension, or joins it with the one before where all `count` strides step on without a gap.
bool joins(const int64_t* before, const int64_t* now, int64_t size, int count) {
  for (int k = 0; k < count; ++k) {
    if (before[k] != size * now[k]) return false;
  }
  return true;
}

// Fetches the line `elements` beyond `at`, which may be no memory of the tensor.
template <class T>
void fetch(const T* at, int64_t elements) {
  const int64_t bytes = elements * static_cast<int64_t>(sizeof(T));
  __builtin_prefetch(reinterpret_cast<const void*>(reinterpret_cast<uintptr_t>(at) + static_cast<uintptr_t>(bytes)));
}

template <class T, bool In>
void move_element(T* memory, T* buffer) {
  In ? void(*buffer = *memory) : void(*memory = *buffer);
}

// memcpy for a few bytes, without the call: rows of some ten elements copy twice as fast.
void copy_bytes(void* to_, const void* from_, size_t bytes) {
  char* to = static_cast<char*>(to_);
  const char* from = static_cast<const char*>(from_);
  if (bytes > 256) {
    std::memcpy(to, from, bytes);
  } else if (bytes >= 16) {  // the last piece overlaps the one before
    for (size_t i = 0; i + 16 < bytes; i += 16) std::memcpy(to + i, from + i, 16);
    std::memcpy(to + bytes - 16, from + bytes - 16, 16);
  } else if (bytes >= 8) {
    std::memcpy(to, from, 8);
    std::memcpy(to + bytes - 8, from + bytes - 8, 8);
  } else if (bytes >= 4) {
    std::memcpy(to, from, 4);
    std::memcpy(to + bytes - 4, from + bytes - 4, 4);
  } else {
    for (size_t i = 0; i < bytes; ++i) to[i] = from[i];
  }
}

// Rows of up to 16 * Pieces bytes (and more than 16 * (Pieces - 1), at least 16): the pieces of a row overlap.
template <int Pieces>
void copy_rows(char* to, int64_t to_step, const char* from, int64_t from_step, int64_t bytes, int64_t n_rows) {
  for (int64_t b = 0; b < n_rows; ++b, to += to_step, from += from_step) {
    for (int i = 0; i < Pieces - 1; ++i) std::memcpy(to + 16 * i, from + 16 * i, 16);
    std::memcpy(to + bytes - 16, from + bytes - 16, 16);
  }
}

template <class T, bool In>
void move_run(T* memory, int64_t stride, T* buffer, int64_t n) {
  if (stride == 1) {
    const size_t bytes = static_cast<size_t>(n) * sizeof(T);
    In ? copy_bytes(buffer, memory, bytes) : copy_bytes(memory, buffer, bytes);
    return;
  }
  int64_t i = 0;
  for (; In && stride == 2 && i < n; ++i, memory += 2, ++buffer) *buffer = *memory;  // which compiles to shuffles
  for (; i + 4 <= n; i += 4, memory += 4 * stride, buffer += 4) {
    for (int u = 0; u < 4; ++u) move_element<T, In>(memory + u * stride, buffer + u);
  }
  for (; i < n; ++i, memory += stride, ++buffer) move_element<T, In>(memory, buffer);
}

constexpr int64_t kAhead = 24;  // columns

template <class T, bool In>
void move_columns(T* memory, int64_t row_stride, int64_t column_stride, T* const* rows, int n_rows, int64_t from,
                  int64_t to) {
  constexpr int n = kSide<T>;
  int64_t k = from;
  if constexpr (n > 1) {
    const int squares = n_rows / n * n;
    for (; row_stride == 1 && k + n <= to; k += n) {
      T* columns = memory + k * column_stride;
      for (int u = 0; In && u < n; ++u) fetch(columns + u * column_stride, kAhead * column_stride);
      for (int b = 0; b < squares; b += n) {
        const auto column = [&](int u) { return columns + u * column_stride + b; };
        const auto row = [&](int i) { return rows[b + i] + k; };
        In ? transpose<T>(column, row) : transpose<T>(row, column);
      }
      for (int b = squares; b < n_rows; ++b) {
        for (int u = 0; u < n; ++u) move_element<T, In>(columns + u * column_stride + b, rows[b] + k + u);
      }
    }
  }
  for (; k < to; ++k) {
    T* column = memory + k * column_stride;
    for (int b = 0; b < n_rows; ++b) move_element<T, In>(column + b * row_stride, rows[b] + k);
  }
}

// `n_rows` whole rows of a dense buffer.
template <class T, bool In>
void move_rows(T* memory, int64_t row_stride, int64_t column_stride, int64_t n_rows, int64_t columns, T* buffer) {
  const int64_t bytes = columns * static_cast<int64_t>(sizeof(T)), step = row_stride * static_cast<int64_t>(sizeof(T));
  if (column_stride == 1 && bytes >= 16 && bytes <= 64) {
    char *there = reinterpret_cast<char*>(memory), *here = reinterpret_cast<char*>(buffer);
    const auto copy = bytes > 48 ? copy_rows<4> : bytes > 32 ? copy_rows<3> : bytes > 16 ? copy_rows<2> : copy_rows<1>;
    return In ? copy(here, bytes, there, step, bytes, n_rows) : copy(there, step, here, bytes, bytes, n_rows);
  }
  if (row_stride >= column_stride || column_stride == 1) {
    for (int64_t b = 0; b < n_rows; ++b, memory += row_stride, buffer += columns) {
      move_run<T, In>(memory, column_stride, buffer, columns);
    }
    return;
  }
  constexpr int n = kSide<T>, kRows = kLineBytes / sizeof(T);
  const int64_t whole = n > 1 && row_stride == 1 ? columns / n * n : 0;
  for (int64_t first = 0; first < n_rows; first += kRows) {
    const int64_t stop = std::min(first + kRows, n_rows), squares = stop - (stop - first) % n;
    if constexpr (n > 1) {
      for (int64_t k = 0; k < whole; k += n) {
        for (int64_t b = first; b < squares; b += n) {
          const auto column = [&](int u) { return memory + (k + u) * column_stride + b; };
          const auto row = [&](int i) { return buffer + (b + i) * columns + k; };
          In ? transpose<T>(column, row) : transpose<T>(row, column);
        }
      }
    }
    for (int64_t k = 0; k < columns; ++k) {
      for (int64_t b = k < whole ? squares : first; b < stop; ++b) {
        move_element<T, In>(memory + k * column_stride + b * row_stride, buffer + b * columns + k);
      }
    }
  }
}

template <class T, bool In>
void move_range(const Layout& layout, T* data, int64_t first, int64_t n, T* buffer) {
  const int last = layout.ndim - 1;
  const int64_t columns = layout.sizes[last], column_stride = layout.strides[last];
  int64_t index[ZK_MAX_DIMS], rest = first;
  T* at = data;
  for (int d = last; d >= 0; --d) {
    index[d] = d ? rest % layout.sizes[d] : rest;
    rest /= layout.sizes[d];
    at += index[d] * layout.strides[d];
  }
  while (n > 0) {
    int64_t done;
    if (last > 0 && index[last] == 0 && n >= columns) {
      const int64_t rows = std::min(n / columns, layout.sizes[last - 1] - index[last - 1]);
      const int64_t row_stride = layout.strides[last - 1];
      move_rows<T, In>(at, row_stride, column_stride, rows, columns, buffer);
      done = rows * columns;
      at += rows * row_stride;
      index[last - 1] += rows;
    } else {
      done = std::min(n, columns - index[last]);
      move_run<T, In>(at, column_stride, buffer, done);
      at += done * column_stride;
      index[last] += done;
    }
    buffer += done;
    n -= done;
    for (int d = last; d > 0 && n > 0; --d) {
      if (index[d] < layout.sizes[d]) {
        if (d < last) break;
        continue;
      }
      at += layout.strides[d - 1] - index[d] * layout.strides[d];
      index[d] = 0;
      ++index[d - 1];
    }
  }
}

// Calls run(a null pointer of the element's type).
template <class Run>
void with_type(int64_t size, const Run& run) {
  if (size == 1) return run(static_cast<uint8_t*>(nullptr));
  if (size == 2) return run(static_cast<uint16_t*>(nullptr));
  if (size == 4) return run(static_cast<uint32_t*>(nullptr));
  run(static_cast<uint64_t*>(nullptr));
}

template <class T>
T* as(char* memory) {
  return reinterpret_cast<T*>(memory);
}

}  // namespace

Planes::Planes(const zk_tensor& tensor, int64_t index, const States& states, bool reads_source) : t(tensor) {
  const auto fill = [&](int k, void* data, int64_t size, const int64_t* strides, bool read, bool written) {
    planes[k].data = static_cast<char*>(data), planes[k].size = size;
    planes[k].read = read, planes[k].written = written;
    if (t.ndim) std::copy(strides, strides + t.ndim, planes[k].strides);
  };
  fill(0, const_cast<void*>(t.src), element_size(source_dtype(t.dtype)), t.src_strides, t.src && reads_source, false);
  fill(1, t.dst, element_size(target_dtype(t.dtype)), t.dst_strides, false, true);
  for (int s = 0; s < states.count; ++s) {
    const zk_state& state = states.all[index * states.count + s];
    fill(count++, state.data, static_cast<int64_t>(states.size), state.strides, true, states.written);
  }
  join();
}

void Planes::join() {
  const int64_t* const given = t.sizes;
  const auto joined = [&](int first_plane, int n_planes, int64_t* sizes_to, auto&& stride_to) {
    int n = 0;
    for (int d = 0; d < t.ndim; ++d) {
      if (given[d] == 1) continue;
      int64_t before[kPlanes], now[kPlanes];
      for (int k = 0; k < n_planes; ++k) {
        now[k] = planes[first_plane + k].strides[d];
        before[k] = n ? stride_to(first_plane + k, n - 1) : 0;
      }
      if (n && joins(before, now, given[d], n_planes))
        sizes_to[n - 1] *= given[d];
      else
        sizes_to[n++] = given[d];
      for (int k = 0; k < n_planes; ++k) stride_to(first_plane + k, n - 1) = now[k];
    }
    if (n == 0) {
      sizes_to[0] = t.numel;
      for (int k = 0; k < n_planes; ++k) stride_to(first_plane + k, 0) = 1;
      n = 1;
    }
    return n;
  };
  for (int k = 0; k < count; ++k) {
    planes[k].layout.ndim =
        joined(k, 1, planes[k].layout.sizes, [&](int p, int d) -> int64_t& { return planes[p].layout.strides[d]; });
  }
  ndim = joined(0, count, sizes, [&](int p, int d) -> int64_t& { return planes[p].strides[d]; });
}

void copy_range(const Plane& plane, int64_t first, int64_t n, char* buffer, bool in) {
  with_type(plane.size, [&](auto* type) {
    using T = std::remove_pointer_t<decltype(type)>;
    const auto move = in ? move_range<T, true> : move_range<T, false>;
    move(plane.layout, as<T>(plane.data), first, n, as<T>(buffer));
  });
}

void copy_columns(const Plane& plane, char* memory, int64_t row_stride, int64_t column_stride, char* const* rows,
                  int n_rows, int64_t from, int64_t to, bool in) {
  with_type(plane.size, [&](auto* type) {
    using T = std::remove_pointer_t<decltype(type)>;
    T* typed[kMaxRows];
    for (int b = 0; b < n_rows; ++b) typed[b] = as<T>(rows[b]);
    const auto move = in ? move_columns<T, true> : move_columns<T, false>;
    move(as<T>(memory), row_stride, column_stride, typed, n_rows, from, to);
  });
}

void copy_strided(const Plane& plane, char* memory, int64_t stride, int64_t n, char* buffer, bool in) {
  with_type(plane.size, [&](auto* type) {
    using T = std::remove_pointer_t<decltype(type)>;
    in ? move_run<T, true>(as<T>(memory), stride, as<T>(buffer), n)
       : move_run<T, false>(as<T>(memory), stride, as<T>(buffer), n);
  });
}

}  // namespace zk
