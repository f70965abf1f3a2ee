// Every CPU kernel for AVX-512 (F, BW, DQ, VL).
#include "bodies.h"
#include "vec_avx512.h"

namespace zk {
constexpr Tables kAvx512 = make_tables<Avx512>();
}  // namespace zk
