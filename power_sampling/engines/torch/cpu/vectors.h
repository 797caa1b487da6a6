// Vectors as wide as the processor's registers, by the compiler's own extension, and what is done with them.

#pragma once

#include <cstdint>
#include <cstring>

namespace {

#ifdef __AVX512F__
constexpr int LANES = 16;
#else
constexpr int LANES = 8;
#endif
typedef float Floats __attribute__((vector_size(4 * LANES)));
typedef int32_t Words __attribute__((vector_size(4 * LANES)));

template <class V> V load(const void* from) {
  V v;
  std::memcpy(&v, from, sizeof v);
  return v;
}

template <class V> void store(void* to, V v) { std::memcpy(to, &v, sizeof v); }

Floats floats(Words v) { return __builtin_convertvector(v, Floats); }

Words lanes() {
  Words v;
  for (int i = 0; i < LANES; ++i) v[i] = i;
  return v;
}

float sum(Floats v) {
  for (int half = LANES / 2; half; half /= 2) v += __builtin_shuffle(v, (lanes() + half) & (LANES - 1));
  return v[0];
}

// exp of numbers that are not positive; 0 below -87. The reduced argument's polynomial is that of Cephes' expf.
Floats exp(Floats x) {
  const auto is_tiny = x < -87.0f;
  x = is_tiny ? Floats{} : x;
  const Words n = __builtin_convertvector(x * 1.44269504f - 0.5f, Words);
  const Floats whole = floats(n);
  const Floats r = x - whole * 0.693359375f + whole * 2.12194440e-4f;
  Floats p = r * 1.9875691500e-4f + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  const Floats result = (p * r * r + r + 1.0f) * (Floats)((n + 127) << 23);
  return is_tiny ? Floats{} : result;
}

}  // namespace
