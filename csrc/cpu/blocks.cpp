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

Blocks::Piece Blocks::piece_of(int64_t row, int64_t column_block) const {
  const int64_t columns = p_.columns(), begin = column_block * piece_;
  const int64_t end = std::min(begin + piece_, columns);
  const uint64_t start = p_.t.offset + static_cast<uint64_t>(row);
  const auto first_tile = [&](int64_t column) { return (start + static_cast<uint64_t>(column) + kTile - 1) / kTile; };
  Piece piece{row, first_tile(begin), 0, 0, 0, 0, 0};
  if (row == 0 && begin == 0) piece.tile = start / kTile;  // nobody else has the tensor's first tile
  piece.n_tiles = static_cast<int64_t>(first_tile(end) - piece.tile);
  if (piece.n_tiles == 0) {  // the row ends before another tile begins
    piece.from = piece.to = begin;
    return piece;
  }
  piece.shift = static_cast<int64_t>(piece.tile * kTile - start);  // below 0 where the tile begins before the row
  piece.from = std::max<int64_t>(piece.shift, 0);
  const int64_t stop = std::min(piece.shift + piece.n_tiles * kTile, p_.t.numel - row);
  piece.to = std::min(stop, columns);
  piece.spill = stop - piece.to;
  return piece;
}

// Moves the elements of all pieces between a plane and its buffers, each of which begins at the piece's first tile.
void Blocks::move(const Piece* pieces, int n, char* const* buffers, int k, bool in) const {
  const Plane& plane = p_.planes[k];
  const int last = p_.ndim - 1;
  const int64_t step = plane.strides[last], row_step = plane.strides[unit_], size = plane.size, columns = p_.columns();
  const auto memory = [&](int64_t index) { return plane.data + place(k, index) * size; };
  char* rows[kMaxRows];  // where column 0 would be
  for (int b = 0; b < n; ++b) rows[b] = buffers[b] - pieces[b].shift * size;
  if (step <= row_step) {
    for (int b = 0; b < n; ++b) {
      const Piece& piece = pieces[b];
      copy_strided(plane, memory(piece.row) + piece.from * step * size, step, piece.to - piece.from,
                   rows[b] + piece.from * size, in);
      if (piece.spill) {
        copy_strided(plane, memory(piece.row + columns), step, piece.spill, rows[b] + columns * size, in);
      }
    }
    return;
  }
  int64_t from[kMaxRows], to[kMaxRows], zero[kMaxRows] = {}, spill[kMaxRows];
  for (int b = 0; b < n; ++b) {
    from[b] = pieces[b].from, to[b] = pieces[b].to, spill[b] = pieces[b].spill;
  }
  copy_columns(plane, memory(pieces[0].row), row_step, step, rows, n, from, to, in);
  // The next rows lie side by side too, but for one that begins anew in a dimension further out.
  for (int b = 0; b < n;) {
    if (spill[b] == 0) {
      ++b;
      continue;
    }
    char* next = memory(pieces[b].row + columns);
    int same = 1;
    while (b + same < n && spill[b + same] && memory(pieces[b + same].row + columns) == next + same * row_step * size) {
      ++same;
    }
    for (int i = b; i < b + same; ++i) rows[i] += columns * size;
    copy_columns(plane, next, row_step, step, rows + b, same, zero, spill + b, in);
    b += same;
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
  const auto pitch = [&](int k) { return (piece_ + kTile) * p_.planes[k].size + kLineBytes; };  // not a power of 2
  int64_t bytes = 0, begins[kPlanes] = {};
  for (int k = 0; k < p_.count; ++k) {
    if (k == 1 && p_.in_one_buffer()) continue;
    begins[k] = bytes, bytes += kMaxRows * pitch(k);
  }
  thread_local std::vector<char> memory;
  if (memory.size() < static_cast<size_t>(bytes)) memory.resize(static_cast<size_t>(bytes));
  const int64_t all = (p_.columns() + piece_ - 1) / piece_;
  for (int64_t q = column_item * kItemPieces; q < std::min((column_item + 1) * kItemPieces, all); ++q) {
    Piece pieces[kMaxRows];
    for (int b = 0; b < n; ++b) pieces[b] = piece_of(row + b * row_step, q);
    char* buffers[kPlanes][kMaxRows];
    for (int k = 0; k < p_.count; ++k) {
      for (int b = 0; b < n; ++b) buffers[k][b] = memory.data() + begins[k] + b * pitch(k);
    }
    for (int k = 0; k < p_.count; ++k) {
      if (p_.planes[k].read) move(pieces, n, buffers[k], k, true);
    }
    for (int b = 0; b < n; ++b) {
      if (pieces[b].n_tiles == 0) continue;
      const char* source = p_.planes[0].read ? buffers[0][b] : nullptr;
      Run run{tensor, p_.t.stream, pieces[b].tile, pieces[b].n_tiles, source, buffers[1][b], {}};
      for (int k = 2; k < p_.count; ++k) run.states[k - 2] = buffers[k][b];
      body(run);
    }
    for (int k = 0; k < p_.count; ++k) {
      if (p_.planes[k].written) move(pieces, n, buffers[k], k, false);
    }
  }
}

}  // namespace zk
