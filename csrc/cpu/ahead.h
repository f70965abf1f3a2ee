// Fetching memory ahead of a loop that walks it tile by tile and computes much per byte.
#pragma once

#include <cstdint>

#include "stream_body.h"

namespace zk {
namespace {

constexpr uintptr_t kPage = 4096, kPagesAtOnce = 8, kWindow = kPagesAtOnce * kPage;
constexpr int kLine = 64, kLinesOfPage = 8, kAheadBytes = 1024;

// Of an array walked upwards, called for each of its tiles of `Bytes`: fetches the lines 1 KiB ahead and,
// for a loop that memory limits (`Pages`),
//   - at each window of 8 pages one line of every page of the next, so that their address translations
//     run side by side: one after another, as the loop meets them, each of these walks holds it up 125 ns;
//   - at each page the first lines of the next, because hardware prefetchers stop where a page ends.
// perturb_ of 124 M fp32 on one thread: 84 ms with nothing, 67 with the lines alone, 65 with the first
// lines of pages too, 56 with all; the bare read and write takes 49 (4 KiB pages, AVX-512 Xeon VM, Nov
// 2026). In the same sweep: 4 pages at once 59, 16 (all that the core's fill buffers hold) 64; 4, 12 or 16
// lines of a page 58, 57, 60; lines 0.5 or 1.5 KiB ahead 59, 56; fetched for writing the same. bf16, which
// arithmetic limits: 52 with nothing, 48 with the lines alone, 50 with all. Nor do pages pay where several
// arrays are walked side by side, even with their windows apart: Adam's update 151 without, 145 with;
// with AVX2 166, 169.
template <int Bytes, bool Pages>
ZK_INLINE void fetch_ahead(const void* tile) {
  const auto fetch = [](uintptr_t address) { __builtin_prefetch(reinterpret_cast<const void*>(address)); };
  const uintptr_t at = reinterpret_cast<uintptr_t>(tile);
  if (Pages && at % kWindow < Bytes) {
    const uintptr_t next = at - at % kWindow + kWindow;
    ZK_UNROLL
    for (uintptr_t page = 0; page < kPagesAtOnce; ++page) fetch(next + page * kPage);
  }
  if (Pages && at % kPage < Bytes) {
    const uintptr_t next = at - at % kPage + kPage;
    ZK_UNROLL
    for (int line = 0; line < kLinesOfPage; ++line) fetch(next + line * kLine);
  }
  ZK_UNROLL
  for (int line = 0; line < Bytes; line += kLine) fetch(at + kAheadBytes + line);
}

}  // namespace
}  // namespace zk
