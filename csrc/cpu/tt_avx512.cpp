#include "tt_body.h"
#include "vec_avx512.h"

namespace zk {
constexpr TtTable kTtAvx512 = make_tt_table<Avx512>();
}  // namespace zk
