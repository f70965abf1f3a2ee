#include "tt_body.h"
#include "vec_avx2.h"

namespace zk {
constexpr TtTable kTtAvx2 = make_tt_table<Avx2>();
}  // namespace zk
