#include "adam_body.h"
#include "vec_avx2.h"

namespace zk {
constexpr AdamTable kAdamAvx2 = make_adam_table<Avx2>();
}  // namespace zk
