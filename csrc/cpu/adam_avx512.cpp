#include "adam_body.h"
#include "vec_avx512.h"

namespace zk {
constexpr AdamTable kAdamAvx512 = make_adam_table<Avx512>();
}  // namespace zk
