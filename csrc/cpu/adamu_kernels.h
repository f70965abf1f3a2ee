// The table of every instruction set: one function per dtype, for the probe and for the update.
#pragma once

#include "tiles.h"

namespace zk {

using RunAdamu = void (*)(const zk_adamu& move, const Run& run);

struct AdamuTable {
  RunAdamu run[4 /* zk_dtype */][2 /* probe, update */];
};

}  // namespace zk
