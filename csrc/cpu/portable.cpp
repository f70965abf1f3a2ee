// Every CPU kernel in plain C++.
#include "bodies.h"
#include "vec_portable.h"

namespace zk {
constexpr Tables kPortable = make_tables<Portable>();
}  // namespace zk
