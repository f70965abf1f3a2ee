// Every CPU kernel for AVX2, FMA and F16C.
#include "bodies.h"
#include "vec_avx2.h"

namespace zk {
constexpr Tables kAvx2 = make_tables<Avx2>();
}  // namespace zk
