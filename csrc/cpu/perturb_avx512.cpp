#include "perturb_body.h"
#include "vec_avx512.h"

namespace zk {
constexpr PerturbTable kPerturbAvx512 = make_table<Avx512>();
}  // namespace zk
