// Fetching memory ahead of a loop that walks it tile by tile and computes much per byte.
#pragma once

#include <cstdint>

#include "stream_body.h"
#include "tuning.h"

namespace zk {
namespace {

constexpr uintptr_t kPage = 4096, kPagesAtOnce = 8, kWindow = kPagesAtOnce * kPage;
constexpr int kLine = 64, kLinesOfPage = 8, kAheadBytes = 1024;

// Called for each tile of `Bytes` of an array that a loop walks upwards. Fetches the lines 1 KiB ahead. For a
// loop that memory limits (`Pages`) it also fetches
//   - at the start of every 8 pages, one line of each of the next 8, so that their address translations run
//     side by side; when the loop meets one translation after another, each costs it 125 ns;
//   - at the start of every page, the first lines of the next, because hardware prefetchers stop at its end.
// Measured with 4 KiB pages on an AVX-512 Xeon VM, Nov 2026, in ms:
//   perturb_ of 124 M fp32, one thread: 84 with nothing, 67 with the lines ahead, 65 with the first lines of
//   pages too, 56 with all three; reading and writing alone takes 49. With 4 pages at once 59, with 16 (as many
//   as the core has fill buffers) 64; with 4, 12 or 16 lines of a page 58, 57, 60; with lines 0.5 or 1.5 KiB
//   ahead 59, 56; fetching for writing changes nothing.
//   bf16, which arithmetic limits: 52 with nothing, 48 with the lines ahead, 50 with all three.
//   Adam's update, which walks several arrays: 151 without pages, 145 with; with AVX2 166 and 169.
// What of this pays differs between processors: tuning.h.
template <int Bytes, bool Pages>
ZK_INLINE void fetch_ahead(const void* tile) {
  if (!tuning.fetch_ahead) return;
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
