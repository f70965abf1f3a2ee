#include "perturb_body.h"
#include "vec_portable.h"

namespace zk {
constexpr PerturbTable kPerturbPortable = make_table<Portable>();
}  // namespace zk
