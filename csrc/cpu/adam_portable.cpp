#include "adam_body.h"
#include "vec_portable.h"

namespace zk {
constexpr AdamTable kAdamPortable = make_adam_table<Portable>();
}  // namespace zk
