// The merge of a masked move: each element moved, or as it was.
#pragma once

#include "../core/masked.h"
#include "masked_kernels.h"

namespace zk {
namespace {

template <class U>
void merge(const void* src_, const void* moved_, void* dst_, const uint8_t* mask, uint64_t limit_, int64_t n) {
  const U *src = static_cast<const U*>(src_), *moved = static_cast<const U*>(moved_), limit = static_cast<U>(limit_);
  U* dst = static_cast<U*>(dst_);
  if (mask) {
    for (int64_t i = 0; i < n; ++i) dst[i] = mask[i] ? moved[i] : src[i];
  } else {
    for (int64_t i = 0; i < n; ++i) dst[i] = is_small<U>(src[i], limit) ? moved[i] : src[i];
  }
}

constexpr MaskedTable make_masked_table() {
  return {{merge<uint32_t>, merge<uint16_t>, merge<uint16_t>, merge<uint64_t>}};  // in the order of zk_dtype
}

}  // namespace
}  // namespace zk
