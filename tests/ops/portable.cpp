// Counts where the portable vectors differ from the maths of csrc/core (test_portable.py).
#include <cstdio>

#include "../../csrc/cpu/stream_body.h"
#include "../../csrc/cpu/vec_portable.h"

namespace {

using namespace zk;
using F = Portable::F;
using W = Portable::W;

// Every radius and every angle once: 23 bits each, the angle's in an order of its own.
long wrong_normals() {
  long wrong = 0;
  for (uint32_t i = 0; i < 1u << 23; ++i) {
    const uint32_t angle = i * 0x9e3779b1u & 0x7fffffu;
    const uint32_t w[4] = {i | (angle >> 16) << 23 | i << 30, (angle & 0xffffu) | i << 16, ~i, i * 0x85ebca6bu};
    const W words[1] = {W{w[0], w[1], w[2], w[3]}};
    F z0[1], z1[1];
    normal_pairs<Portable, 1>(words, z0, z1);
    for (int j = 0; j < 4; ++j) {
      float a, b;
      normal_pair(w[j], w[j ^ 1], a, b);
      wrong += float_bits(a) != float_bits(z0[0][j]) || float_bits(b) != float_bits(z1[0][j]);
    }
  }
  return wrong;
}

// Bits that put sums into the middle between two numbers, below the normal ones, and beyond them.
float value(uint32_t& state) {
  state = state * 1664525u + 1013904223u;
  const uint32_t random = state ^ state >> 15, kind = random >> 29;
  const uint32_t few = random & 0x80000000u | (kind < 2 ? 127u << 23 : 100u + random % 50u) << (kind < 2 ? 0 : 23);
  if (kind == 0) return bits_float(few | (random & 0x00600000u));
  if (kind == 1) return bits_float(few | (random & 3u));
  if (kind == 2) return bits_float(random & 0x807fffffu);
  if (kind == 3) return bits_float((random & 0x80ffffffu) | 0x7f000000u);
  if (kind == 4) return bits_float((few & 0xff800000u) | (random & 0x00700001u));
  return bits_float(few | (random & 0x007fffffu));
}

long wrong_fma() {
  long wrong = 0;
  uint32_t state = 1;
  for (int i = 0; i < 4000000; ++i) {
    F a, b, c;
    for (int j = 0; j < 4; ++j) a[j] = value(state), b[j] = value(state), c[j] = value(state);
    if (i % 3 == 0) c = -(a * b);  // what cancels
    const F r = Portable::fma(a, b, c);
    for (int j = 0; j < 4; ++j) {
      const float exact = std::fmaf(a[j], b[j], c[j]);
      wrong += float_bits(exact) != float_bits(r[j]) && !(exact != exact && r[j] != r[j]);
    }
  }
  return wrong;
}

// Every number of float16 in, and fp32 numbers around every one of them, and between, out.
long wrong_halves() {
  long wrong = 0;
  for (uint32_t h = 0; h < 1u << 16; ++h) {
    const uint16_t in[4] = {static_cast<uint16_t>(h), static_cast<uint16_t>(~h), 0, static_cast<uint16_t>(h ^ 0x8000u)};
    const F read = Portable::load_half(in);
    for (int j = 0; j < 4; ++j) wrong += float_bits(half_to_float(in[j])) != float_bits(read[j]);
    for (uint32_t low = 0; low < 64; ++low) {
      // around the number, around the middle to the next, and anywhere
      const uint32_t bits = float_bits(half_to_float(in[0])) + (low & 32 ? 0x1000u : 0u) + (low & 31) - 16u;
      const F out{bits_float(bits), bits_float(bits ^ 0x80000000u), bits_float(h << 16 | low * 1021u), 0.0f};
      uint16_t written[4];
      Portable::store_half(written, out);
      for (int j = 0; j < 4; ++j) wrong += half_nearest(out[j]) != written[j];
    }
  }
  return wrong;
}

}  // namespace

int main() { std::printf("%ld %ld %ld\n", wrong_normals(), wrong_fma(), wrong_halves()); }
