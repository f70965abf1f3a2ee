// Blocks of rows that lie side by side in memory: which tensors, which elements, in and out.
#include "blocks.h"

#include <vector>

namespace zk {
namespace {

// A piece is 2 KiB: 64 rows of it lie in the second level of the caches on their way in and out.
constexpr int64_t kPieceBytes = 2048, kItemPieces = 8;
constexpr int64_t kMinColumns = 512;  // shorter rows are moved whole, several at once
constexpr int64_t kMinRows = 4;

}  // namespace

Blocks::Blocks(const Planes& planes) : p_(planes) {
  const int last = p_.ndim - 1;
  if (last == 0 || p_.columns() < kMinColumns) return;
  for (int k = 0; k < p_.count && unit_ < 0; ++k) {
    const Plane& plane = p_.planes[k];
    int64_t nearest = kLineBytes / plane.size;
    if (!(plane.read || plane.written) || plane.strides[last] < nearest) continue;
    for (int d = 0; d < last; ++d) {
      if (plane.strides[d] < nearest && p_.sizes[d] >= kMinRows) nearest = plane.strides[d], unit_ = d;
    }
    piece_ = std::max<int64_t>(kPieceBytes / plane.size / kTile, 1) * kTile;
  }
  if (unit_ < 0) return;
  for (int d = 0; d < last; ++d) outer_ *= d == unit_ ? 1 : p_.sizes[d];
  row_blocks_ = (p_.sizes[unit_] + kMaxRows - 1) / kMaxRows;
  const int64_t columns = kItemPieces * piece_;
  column_blocks_ = (p_.columns() + columns - 1) / columns;
}

int64_t Blocks::place(int plane, int64_t index) const {
  int64_t at = 0;
  for (int d = p_.ndim - 1; d >= 0; --d) {
    at += (d ? index % p_.sizes[d] : index) * p_.planes[plane].strides[d];
    index /= p_.sizes[d];
  }
  return at;
}

Blocks::Piece Blocks::piece_of(int64_t row, int64_t from, int64_t to) const {
  const uint64_t start = p_.t.offset + static_cast<uint64_t>(row);
  const uint64_t tile = (start + static_cast<uint64_t>(from)) / kTile;
  const uint64_t end = (start + static_cast<uint64_t>(to) + kTile - 1) / kTile;
  return {tile, static_cast<int64_t>(end - tile), static_cast<int64_t>(tile * kTile - start)};
}

// Moves columns [from, to) of n rows, the first of which begins at index `row`, between a plane and the places where
// column 0 of each would be.
void Blocks::move(int64_t row, int64_t from, int64_t to, int n, char* const* rows, int k, bool in) const {
  const Plane& plane = p_.planes[k];
  const int64_t step = plane.strides[p_.ndim - 1], row_step = plane.strides[unit_], size = plane.size;
  char* memory = plane.data + place(k, row) * size;
  if (step > row_step) return copy_columns(plane, memory, row_step, step, rows, n, from, to, in);
  for (int b = 0; b < n; ++b) {
    copy_strided(plane, memory + (b * row_step + from * step) * size, step, to - from, rows[b] + from * size, in);
  }
}

void Blocks::run(int64_t tensor, int64_t item, const std::function<void(const Run&)>& body) const {
  const int64_t column_item = item % column_blocks_, row_block = item / column_blocks_ % row_blocks_;
  int64_t outer = item / column_blocks_ / row_blocks_, row = 0, row_step = 0, step = 1;
  for (int d = p_.ndim - 1; d >= 0; --d) {
    if (d == unit_) {
      row += row_block * kMaxRows * step, row_step = step;
    } else if (d < p_.ndim - 1) {
      row += outer % p_.sizes[d] * step;
      outer /= p_.sizes[d];
    }
    step *= p_.sizes[d];
  }
  const int n = static_cast<int>(std::min<int64_t>(kMaxRows, p_.sizes[unit_] - row_block * kMaxRows));
  const auto pitch = [&](int k) { return (piece_ + 2 * kTile) * p_.planes[k].size + kLineBytes; };  // not a power of 2
  int64_t bytes = 0, begins[kPlanes] = {};
  for (int k = 0; k < p_.count; ++k) {
    if (k == 1 && p_.in_one_buffer()) continue;
    begins[k] = bytes, bytes += kMaxRows * pitch(k);
  }
  thread_local std::vector<char> memory;
  if (memory.size() < static_cast<size_t>(bytes)) memory.resize(static_cast<size_t>(bytes));
  const int64_t all = (p_.columns() + piece_ - 1) / piece_;
  for (int64_t q = column_item * kItemPieces; q < std::min((column_item + 1) * kItemPieces, all); ++q) {
    const int64_t from = q * piece_, to = std::min(from + piece_, p_.columns());
    Piece pieces[kMaxRows];
    char *buffers[kPlanes][kMaxRows], *rows[kPlanes][kMaxRows];
    for (int b = 0; b < n; ++b) {
      pieces[b] = piece_of(row + b * row_step, from, to);
      for (int k = 0; k < p_.count; ++k) {
        buffers[k][b] = memory.data() + begins[k] + b * pitch(k);
        rows[k][b] = buffers[k][b] - pieces[b].shift * p_.planes[k].size;
      }
    }
    for (int k = 0; k < p_.count; ++k) {
      if (p_.planes[k].read) move(row, from, to, n, rows[k], k, true);
    }
    for (int b = 0; b < n; ++b) {
      const char* source = p_.planes[0].read ? buffers[0][b] : nullptr;
      Run run{tensor, p_.t.stream, pieces[b].tile, pieces[b].n_tiles, source, buffers[1][b], {}};
      for (int k = 2; k < p_.count; ++k) run.states[k - 2] = buffers[k][b];
      body(run);
    }
    for (int k = 0; k < p_.count; ++k) {
      if (p_.planes[k].written) move(row, from, to, n, rows[k], k, false);
    }
  }
}

}  // namespace zk
