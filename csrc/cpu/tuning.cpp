// The table of processors: measured rows, and one for all others.
//
// Philox groups in flight are a property of the instruction set (kGroups of vec_*.h): the two processors that were
// measured agree. `fetch_ahead` follows the row; a processor without one keeps what was best on the first measured.
#include "tuning.h"

#ifdef ZK_X86
#include <cpuid.h>

#include <cstring>
#endif

#include "../zokern.h"

namespace zk {
namespace {

struct Row {
  const char* vendor;
  unsigned family, first_model, last_model;
  int isa;
  bool fetch_ahead;
};

// fp32 in 1e9 elements a second, one thread, perturb_ in place on tensors beyond the caches:
//   Intel Xeon, family 6, model 167 (25 Nov 2026): AVX-512 2.1, 4 groups 1.6 x 1; fetching ahead 1.5 x without.
//   AMD EPYC, family 25, model 1, Zen 3 (28 Nov 2026): AVX2 with 1, 2, 4, 8 groups 0.94, 1.16, 0.91, 0.79 (bf16
//   0.86, 1.09, 0.97, 0.76);
//     without fetching ahead 1.17, with lines ahead 1.14, with pages too 1.13: arithmetic limits it, also in bf16.
constexpr Row kRows[] = {
    {"GenuineIntel", 6, 0xa7, 0xa7, ZK_AVX512, true},
    {"AuthenticAMD", 25, 0x00, 0x0f, ZK_AVX2, false},
};

Tuning tuning_of_this_processor() {
  Tuning found{true, ZK_AVX512};
#ifdef ZK_X86
  unsigned eax = 0, registers[4] = {};
  if (!__get_cpuid(0, &eax, &registers[0], &registers[2], &registers[1])) return found;
  char vendor[13] = {};
  std::memcpy(vendor, registers, 12);
  if (!__get_cpuid(1, &eax, &registers[0], &registers[1], &registers[2])) return found;
  const unsigned base = eax >> 8 & 15u;
  const unsigned family = base == 15u ? base + (eax >> 20 & 255u) : base;
  const unsigned model = (eax >> 4 & 15u) | (eax >> 12 & 0xf0u);
  for (const Row& row : kRows) {
    const bool same = std::strcmp(row.vendor, vendor) == 0 && row.family == family;
    if (same && row.first_model <= model && model <= row.last_model) found = {row.fetch_ahead, row.isa};
  }
#endif
  return found;
}

}  // namespace

const Tuning tuning = tuning_of_this_processor();

}  // namespace zk
