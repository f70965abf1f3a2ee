// The table of every instruction set: one function per dtype and noise.
#pragma once

#include "tiles.h"

namespace zk {

using RunAdam = void (*)(const zk_adam& move, const Run& run);

struct AdamTable {
  RunAdam run[4 /* zk_dtype */][2 /* zk_distribution */];
};

}  // namespace zk
