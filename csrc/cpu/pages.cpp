// Huge pages for large outputs that have just been allocated.
#include "../zokern.h"

#ifdef __linux__
#include <sys/mman.h>
#endif

// From 32 MiB on, and smaller ones until its heap has grown to hold them, glibc maps a block anew, and its
// pages are made one by one at the first touch: 8192 of 4 KiB take longer than the kernel that writes
// them. Asked for huge ones, 2048 rows of 4096 of an adapter take 11.9 ms for 15.1, 4096 rows 23.5 for
// 32.3; with the pages made ahead by MADV_POPULATE_WRITE 13.8 and 29.7. Where a block is used again, which
// is the rule below 8 MiB, it changes nothing (AVX-512 Xeon VM, Linux 6.18, Nov 2026).
extern "C" void zk_cpu_huge_pages(void* memory, int64_t bytes) {
#if defined(__linux__) && defined(MADV_HUGEPAGE)
  constexpr uintptr_t kPage = 4096;
  const uintptr_t first = (reinterpret_cast<uintptr_t>(memory) + kPage - 1) / kPage * kPage;
  const uintptr_t last = (reinterpret_cast<uintptr_t>(memory) + static_cast<uintptr_t>(bytes)) / kPage * kPage;
  // advice: refused on other page sizes or by a kernel without huge pages, and all works as before
  if (last > first) madvise(reinterpret_cast<void*>(first), last - first, MADV_HUGEPAGE);
#else
  (void)memory, (void)bytes;
#endif
}
