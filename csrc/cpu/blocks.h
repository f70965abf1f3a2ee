// Tensors whose rows step through memory in long strides, such as transposes: worked through in blocks of rows
// that lie side by side in memory, so that cache lines are used whole.
//
// A block is a piece, the same columns, of up to kMaxRows neighbouring rows. The tiles of the stream run along the
// rows and begin at other columns in each, unless a row is a whole number of tiles: a tile that lies over the edge of
// a piece is computed in both. (Pieces that end where their tiles do need no tile twice, but differ from row to row;
// moving their ragged edges took longer: 3.0 ns an element against 2.2, fp32, AMD EPYC, Zen 3, Nov 2026.)
#pragma once

#include <functional>

#include "planes.h"

namespace zk {

constexpr int64_t kTile = 256;

class Blocks {
 public:
  explicit Blocks(const Planes& planes);
  bool useful() const { return unit_ >= 0; }
  int64_t items() const { return outer_ * row_blocks_ * column_blocks_; }
  void run(int64_t tensor, int64_t item, const std::function<void(const Run&)>& body) const;

 private:
  struct Piece {  // of one row
    uint64_t tile;
    int64_t n_tiles;
    int64_t shift;  // from column 0's place in the buffer to the buffer's start
  };
  Piece piece_of(int64_t row, int64_t from, int64_t to) const;
  void move(int64_t row, int64_t from, int64_t to, int n, char* const* rows, int plane, bool in) const;
  int64_t place(int plane, int64_t index) const;

  const Planes& p_;
  int unit_ = -1;      // the dimension along which rows lie side by side
  int64_t piece_ = 0;  // columns of a piece
  int64_t outer_ = 1, row_blocks_ = 0, column_blocks_ = 0;
};

}  // namespace zk
