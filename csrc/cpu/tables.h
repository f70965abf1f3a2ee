// What each instruction set exports: a table of functions for every op.
#pragma once

#include "adam_kernels.h"
#include "adamu_kernels.h"
#include "masked_kernels.h"
#include "perturb_kernels.h"
#include "tt_kernels.h"

namespace zk {

struct Tables {
  PerturbTable perturb;
  MaskedTable masked;
  AdamTable adam;
  AdamuTable adamu;
  TtTable tt;
};

extern const Tables kPortable;
#ifdef ZK_X86
extern const Tables kAvx2, kAvx512;
#endif

// The tables of a zk_isa, or null where this machine does not run it.
const Tables* tables_of(int isa);

}  // namespace zk
