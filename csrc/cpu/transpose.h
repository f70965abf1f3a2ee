// Square blocks of elements transposed in vector registers: element (i, j) of `from` becomes (j, i) of `to`.
// The vectors are the compiler's own, of 16 bytes: any CPU that GCC or Clang targets.
#pragma once

#include <cstdint>
#include <cstring>

#include "../core/philox.h"

#if defined(__clang__) || __GNUC__ >= 12
#define ZK_SHUFFLE(a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else
#define ZK_SHUFFLE(a, b, ...) __builtin_shuffle(a, b, decltype(a){__VA_ARGS__})
#endif

namespace zk {
namespace {

// Side of the block in elements of T; 1 where there is none.
template <class T>
constexpr int kSide = sizeof(T) == 1 ? 1 : 16 / sizeof(T);

// rows(i): address of row i of the block
template <class T, class From, class To>
ZK_INLINE void transpose(const From& from, const To& to) {
  constexpr int n = kSide<T>;
  typedef T V __attribute__((vector_size(16)));
  V v[n], w[n];
  for (int i = 0; i < n; ++i) std::memcpy(&v[i], from(i), 16);
  // log2(n) rounds, each of which interleaves the rows i and i + n / 2
  const auto interleave = [](const V* a, V* b) __attribute__((always_inline)) {
    for (int i = 0; i < n / 2; ++i) {
      if constexpr (n == 2) {
        b[0] = ZK_SHUFFLE(a[0], a[1], 0, 2), b[1] = ZK_SHUFFLE(a[0], a[1], 1, 3);
      } else if constexpr (n == 4) {
        b[2 * i] = ZK_SHUFFLE(a[i], a[i + 2], 0, 4, 1, 5), b[2 * i + 1] = ZK_SHUFFLE(a[i], a[i + 2], 2, 6, 3, 7);
      } else {
        b[2 * i] = ZK_SHUFFLE(a[i], a[i + 4], 0, 8, 1, 9, 2, 10, 3, 11);
        b[2 * i + 1] = ZK_SHUFFLE(a[i], a[i + 4], 4, 12, 5, 13, 6, 14, 7, 15);
      }
    }
  };
  interleave(v, w);
  if (n > 2) interleave(w, v);
  if (n > 4) interleave(v, w);
  const V* last = n == 4 ? v : w;
  for (int i = 0; i < n; ++i) std::memcpy(to(i), &last[i], 16);
}

}  // namespace
}  // namespace zk
