#include "adamu_body.h"
#include "vec_avx2.h"

namespace zk {
constexpr AdamuTable kAdamuAvx2 = make_adamu_table<Avx2>();
}  // namespace zk
