// y = x W^T + b for few rows, with weights that lie in memory in fewer bits than a float has (compact.py says which).
//
// Decoding is bound by reading weights. A block of them is expanded into floats within the first-level cache, and
// multiplied with all rows there. Its floats are exactly those that the model has.
//
// Words of 32 bits, W[task][block of 32 inputs][panel of 16 outputs][word][16 outputs]: one thread reads one stream.

#include <algorithm>
#include <cstdint>
#include <cstring>

namespace {

constexpr int LANES = 16, BLOCK = 32;
#ifdef __AVX512F__
constexpr int PANELS = 3, ROWS = 8;  // 24 of 32 registers hold sums
#else
constexpr int PANELS = 1, ROWS = 4;  // 8 of 16
#endif
constexpr int WIDTH = PANELS * LANES;  // outputs of a task
constexpr int BLOCKS = 2;              // expanded together: 12 KiB
constexpr int KEPT = 32;               // rows whose sums are kept together
constexpr int AHEAD = 512;             // words fetched in advance; measured

typedef float Floats __attribute__((vector_size(64)));
typedef int32_t Words __attribute__((vector_size(64)));

template <class V> V load(const void* from) {
  V v;
  std::memcpy(&v, from, sizeof v);
  return v;
}

void store(float* to, Floats v) { std::memcpy(to, &v, sizeof v); }

Words next(const int32_t*& w) {
  __builtin_prefetch(w + AHEAD);
  const Words word = load<Words>(w);
  w += LANES;
  return word;
}

Floats floats(Words v) { return __builtin_convertvector(v, Floats); }

// The upper halves of floats whose lower ones are zero, two in a word.
struct Halves {
  static constexpr int words = BLOCK / 2;
  static void expand(const int32_t* w, float* to) {
    for (int k = 0; k < BLOCK; k += 2, to += 2 * WIDTH) {
      const Words word = next(w);
      const Words even = word << 16, odd = word & ~0xffff;
      store(to, load<Floats>(&even));
      store(to + WIDTH, load<Floats>(&odd));
    }
  }
};

// scale * q, q in -128..127, four in a word.
struct Bytes {
  static constexpr int words = 1 + BLOCK / 4;
  static void expand(const int32_t* w, float* to) {
    const Floats scale = load<Floats>(w);
    w += LANES;
    for (int k = 0; k < BLOCK; k += 4) {
      const Words word = next(w);
#pragma GCC unroll 4
      for (int j = 0; j < 4; ++j, to += WIDTH) store(to, floats((word << (24 - 8 * j)) >> 24) * scale);
    }
  }
};

// scale * q + offset, q in 0..15, eight in a word.
struct Nibbles {
  static constexpr int words = 2 + BLOCK / 8;
  static void expand(const int32_t* w, float* to) {
    const Floats scale = load<Floats>(w), offset = load<Floats>(w + LANES);
    w += 2 * LANES;
    for (int k = 0; k < BLOCK; k += 8) {
      const Words word = next(w);
#pragma GCC unroll 8
      for (int j = 0; j < 8; ++j, to += WIDTH) store(to, floats((word >> 4 * j) & 15) * scale + offset);
    }
  }
};

// sums (R, WIDTH) += x (R, n, a row every `stride`) w (n, WIDTH)
template <int R> void multiply(const float* x, long stride, const float* w, int n, float* sums) {
  Floats sum[R][PANELS];
  for (int r = 0; r < R; ++r)
    for (int p = 0; p < PANELS; ++p) sum[r][p] = load<Floats>(sums + r * WIDTH + p * LANES);
  for (int k = 0; k < n; ++k, w += WIDTH) {
    Floats weight[PANELS];
    for (int p = 0; p < PANELS; ++p) weight[p] = load<Floats>(w + p * LANES);
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r)
      for (int p = 0; p < PANELS; ++p) sum[r][p] += x[r * stride + k] * weight[p];
  }
  for (int r = 0; r < R; ++r)
    for (int p = 0; p < PANELS; ++p) store(sums + r * WIDTH + p * LANES, sum[r][p]);
}

// The same for at most ROWS rows.
template <int R> void multiply_some(int rows, const float* x, long stride, const float* w, int n, float* sums) {
  if (rows == R) return multiply<R>(x, stride, w, n, sums);
  if constexpr (R > 1) multiply_some<R - 1>(rows, x, stride, w, n, sums);
}

// One task: sums (rows, WIDTH) of at most KEPT rows.
template <class Format> void sum_up(const float* x, long rows, long in, const int32_t* w, float* sums) {
  alignas(64) float expanded[BLOCKS * BLOCK * WIDTH];
  const long parts = (rows + ROWS - 1) / ROWS;
  for (long done = 0; done < in;) {
    float* to = expanded;
    const long first = done;
    for (int b = 0; b < BLOCKS && done < in; ++b, done += BLOCK, to += BLOCK * WIDTH)
      for (int p = 0; p < PANELS; ++p, w += Format::words * LANES) Format::expand(w, to + p * LANES);
    for (long i = 0, r = 0; i < parts; ++i) {  // parts of nearly equal sizes
      const long n = rows * (i + 1) / parts - r;
      multiply_some<ROWS>(n, x + r * in + first, in, expanded, done - first, sums + r * WIDTH);
      r += n;
    }
  }
}

template <class Format>
void product(const float* x, long rows, long in, const int32_t* w, const float* bias, long out, float* y, int threads) {
  const long tasks = (out + WIDTH - 1) / WIDTH;
#pragma omp parallel for schedule(static) num_threads(threads)
  for (long task = 0; task < tasks; ++task) {
    alignas(64) float sums[KEPT * WIDTH];
    const long left = task * WIDTH, width = std::min<long>(WIDTH, out - left);
    for (long r = 0; r < rows; r += KEPT) {
      const long n = std::min<long>(KEPT, rows - r);
      std::memset(sums, 0, n * WIDTH * sizeof(float));
      for (long i = 0; bias && i < n; ++i) std::memcpy(sums + i * WIDTH, bias + left, width * sizeof(float));
      sum_up<Format>(x + r * in, n, in, w + task * (in / BLOCK) * PANELS * Format::words * LANES, sums);
      for (long i = 0; i < n; ++i) std::memcpy(y + (r + i) * out + left, sums + i * WIDTH, width * sizeof(float));
    }
  }
}

}  // namespace

extern "C" {

int panels() { return PANELS; }

// x (rows, in), bias (out) or null, y (rows, out); bits 16, 8 or 4; `in` is a multiple of BLOCK.
void multiply_compact(int bits, const float* x, long rows, long in, const int32_t* w, const float* bias, long out,
                      float* y, int threads) {
  const auto run = bits == 16 ? product<Halves> : bits == 8 ? product<Bytes> : product<Nibbles>;
  run(x, rows, in, w, bias, out, y, threads);
}
}
