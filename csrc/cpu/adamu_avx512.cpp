#include "adamu_body.h"
#include "vec_avx512.h"

namespace zk {
constexpr AdamuTable kAdamuAvx512 = make_adamu_table<Avx512>();
}  // namespace zk
