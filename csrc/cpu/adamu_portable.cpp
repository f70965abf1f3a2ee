#include "adamu_body.h"
#include "vec_portable.h"

namespace zk {
constexpr AdamuTable kAdamuPortable = make_adamu_table<Portable>();
}  // namespace zk
