// Tensors whose rows step through memory in long strides, such as transposes: worked through in blocks of rows
// that lie side by side in memory, so that cache lines are used whole.
//
// The tiles of the stream run along the rows. A row is given the tiles that begin in it; the last of them may
// end in the next row. Its tiles are cut into pieces, and a block is one piece of each of up to
// kMaxRows neighbouring rows. Pieces of a block differ by less than a tile in the columns they begin at.
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
    int64_t row;  // index of its first element
    uint64_t tile;
    int64_t n_tiles, from, to, spill;  // columns [from, to), then `spill` elements of the next row
    int64_t shift;                     // from column 0's place in the buffer to the buffer's start
  };
  Piece piece_of(int64_t row, int64_t column_block) const;
  void move(const Piece* pieces, int n, char* const* buffers, int plane, bool in) const;
  int64_t place(int plane, int64_t index) const;

  const Planes& p_;
  int unit_ = -1;      // the dimension along which rows lie side by side
  int64_t piece_ = 0;  // columns of a piece
  int64_t outer_ = 1, row_blocks_ = 0, column_blocks_ = 0;
};

}  // namespace zk
