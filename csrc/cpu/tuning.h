// What the kernels take from the processor at hand. The rows are in tuning.cpp.
#pragma once

namespace zk {

struct Tuning {
  bool fetch_ahead;  // ahead.h: software prefetch
  int isa;           // the fastest zk_isa of those it runs
};

extern const Tuning tuning;

}  // namespace zk
