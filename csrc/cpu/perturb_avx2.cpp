#include "perturb_body.h"
#include "vec_avx2.h"

namespace zk {
constexpr PerturbTable kPerturbAvx2 = make_table<Avx2>();
}  // namespace zk
