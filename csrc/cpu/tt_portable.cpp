#include "tt_body.h"
#include "vec_portable.h"

namespace zk {
constexpr TtTable kTtPortable = make_tt_table<Portable>();
}  // namespace zk
