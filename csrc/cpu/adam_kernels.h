// The table each instruction set exports: one function per dtype and noise.
#pragma once

#include "tiles.h"

namespace zk {

using RunAdam = void (*)(const zk_adam& move, const Run& run);

struct AdamTable {
  RunAdam run[4 /* zk_dtype */][2 /* zk_distribution */];
};

extern const AdamTable kAdamPortable;
#ifdef ZK_X86
extern const AdamTable kAdamAvx2, kAdamAvx512;
#endif

}  // namespace zk
