// Linear products, y = x W^T + b, over weights in the few bits that they need.
//
// Decoding is bound by reading weights, so they lie in memory in few bits, in the order in which they are read, and are
// made floats again within the first-level cache, for all rows at once. Those floats are exactly the model's.
//
// W[task][block of 32 inputs][panel of LANES outputs][word][lane]: one thread reads one stream. A format has
// `words` words of 32 bits for a block of one output: what its weights have in common, then their codes.

#pragma once

#include <immintrin.h>

#include <algorithm>
#include <cmath>

#include "vectors.h"

namespace {

#ifdef __AVX512F__
constexpr int PANELS = 3, ROWS = 8;  // 24 of 32 registers hold sums
constexpr int BLOCKS = 2;            // expanded together: 12 KiB
#else
constexpr int PANELS = 2, ROWS = 6;  // 12 of 16
constexpr int BLOCKS = 4;            // 8 KiB
#endif
constexpr int BLOCK = 32, WIDTH = PANELS * LANES;  // inputs of a block, outputs of a task
constexpr int KEPT = 192;                          // rows whose sums are kept together
constexpr int AHEAD = 512;                         // words fetched in advance; measured

long tasks(long out) { return (out + WIDTH - 1) / WIDTH; }

Words next(const int32_t*& w) {
  __builtin_prefetch(w + AHEAD);
  const Words word = load<Words>(w);
  w += LANES;
  return word;
}

float rounded_to_half(float x) { return _cvtsh_ss(_cvtss_sh(x, _MM_FROUND_TO_NEAREST_INT)); }

int32_t as_bits(float x) { return load<int32_t>(&x); }

int code(float x, float scale, int lowest, int highest) {
  const float quotient = std::nearbyint(scale == 0 ? 0.0f : x / scale);
  return quotient >= lowest ? quotient <= highest ? quotient : highest : lowest;  // nan is the lowest
}

// All bits of floats.
struct Singles {
  static constexpr int common = 0, words = BLOCK;
  static void expand(const int32_t* w, float* to) {
    for (int k = 0; k < BLOCK; ++k, to += WIDTH) store(to, next(w));
  }
  static bool encode(const float* w, int32_t*, int32_t* codes) {
    for (int k = 0; k < BLOCK; ++k) codes[k] = as_bits(w[k]);
    return true;
  }
};

// The upper halves of floats whose lower ones are zero, as a checkpoint in bfloat16 has them.
struct Halves {
  static constexpr int common = 0, words = BLOCK / 2;
  static void expand(const int32_t* w, float* to) {
    for (int k = 0; k < BLOCK; k += 2, to += 2 * WIDTH) {
      const Words word = next(w);
      store(to, word << 16);
      store(to + WIDTH, word & ~0xffff);
    }
  }
  static bool encode(const float* w, int32_t*, int32_t* codes) {
    bool fits = true;
    for (int k = 0; k < BLOCK; ++k) {
      codes[k] = as_bits(w[k]) >> 16;
      fits &= !(as_bits(w[k]) & 0xffff);
    }
    return fits;
  }
};

// scale * q, q in -128..127: GGUF's Q8_0. It has a block's largest weight at 127 or -127, and scales in half precision,
// so both can be read off the floats, and the products are exact.
struct Bytes {
  static constexpr int common = 1, words = 1 + BLOCK / 4;
  static void expand(const int32_t* w, float* to) {
    const Floats scale = load<Floats>(w);
    w += LANES;
    for (int k = 0; k < BLOCK; k += 4) {
      const Words word = next(w);
#pragma GCC unroll 4
      for (int j = 0; j < 4; ++j, to += WIDTH) store(to, floats((word << (24 - 8 * j)) >> 24) * scale);
    }
  }
  static bool encode(const float* w, int32_t* common, int32_t* codes) {
    float largest = 0;
    for (int k = 0; k < BLOCK; ++k) largest = std::max(largest, std::abs(w[k]));
    const float scale = rounded_to_half(largest / 127);
    common[0] = as_bits(scale);
    bool fits = true;
    for (int k = 0; k < BLOCK; ++k) {
      codes[k] = code(w[k], scale, -128, 127);
      fits &= codes[k] * scale == w[k];
    }
    return fits;
  }
};

// scale * q + offset, q in 0..15: GGUF's Q4_1, which has a block's extremes at 0 and 15.
struct Nibbles {
  static constexpr int common = 2, words = 2 + BLOCK / 8;
  static void expand(const int32_t* w, float* to) {
    const Floats scale = load<Floats>(w), offset = load<Floats>(w + LANES);
    w += 2 * LANES;
    for (int k = 0; k < BLOCK; k += 8) {
      const Words word = next(w);
#pragma GCC unroll 8
      for (int j = 0; j < 8; ++j, to += WIDTH) store(to, floats((word >> 4 * j) & 15) * scale + offset);
    }
  }
  static bool encode(const float* w, int32_t* common, int32_t* codes) {
    const float offset = *std::min_element(w, w + BLOCK);
    const float scale = rounded_to_half((*std::max_element(w, w + BLOCK) - offset) / 15);
    common[0] = as_bits(scale), common[1] = as_bits(offset);
    bool fits = true;
    for (int k = 0; k < BLOCK; ++k) {
      codes[k] = code(w[k] - offset, scale, 0, 15);
      fits &= codes[k] * scale + offset == w[k];
    }
    return fits;
  }
};

template <class Do> auto in_format(int bits, Do run) {
  if (bits == 32) return run(Singles{});
  if (bits == 16) return run(Halves{});
  return bits == 8 ? run(Bytes{}) : run(Nibbles{});
}

// Weights (out, in) in a format; false, and the words are of no use, where some weight would not come back bit by bit.
template <class Format> bool lay_out(Format, const float* weights, long out, long in, int32_t* words, int threads) {
  constexpr int several = BLOCK / (Format::words - Format::common), bits = 32 / several;  // codes in a word, of so many
  constexpr auto mask = static_cast<int32_t>((1ll << bits) - 1);
  bool fits = true;
#pragma omp parallel for schedule(static) num_threads(threads) reduction(&& : fits)
  for (long task = 0; task < tasks(out); ++task) {
    int32_t* to = words + task * (in / BLOCK) * Format::words * WIDTH;
    for (long k = 0; fits && k < in; k += BLOCK)
      for (int panel = 0; panel < PANELS; ++panel, to += Format::words * LANES)
        for (int lane = 0; lane < LANES; ++lane) {
          const long output = task * WIDTH + panel * LANES + lane;
          int32_t block[Format::words] = {}, codes[BLOCK] = {};
          if (output < out) fits = fits && Format::encode(weights + output * in + k, block, codes);
          for (int j = 0; j < BLOCK; ++j)
            block[Format::common + j / several] |= (codes[j] & mask) << (j % several * bits);
          for (int j = 0; j < Format::words; ++j) store(to + j * LANES + lane, block[j]);
        }
  }
  return fits;
}

// sums (R, WIDTH) += x (R, n, a row every `stride`) w (n, WIDTH). Few rows have several sums each, so that one addition
// need not wait for the last.
template <int R> void multiply(const float* x, long stride, const float* w, int n, float* sums) {
  constexpr int U = R == 1 ? 4 : R <= 3 ? 2 : 1;
  Floats sum[U][R][PANELS] = {};
  for (int r = 0; r < R; ++r)
    for (int p = 0; p < PANELS; ++p) sum[0][r][p] = load<Floats>(sums + r * WIDTH + p * LANES);
  for (int k = 0; k < n; k += U)
#pragma GCC unroll 4
    for (int u = 0; u < U; ++u, w += WIDTH) {
      Floats weight[PANELS];
      for (int p = 0; p < PANELS; ++p) weight[p] = load<Floats>(w + p * LANES);
#pragma GCC unroll 8
      for (int r = 0; r < R; ++r)
        for (int p = 0; p < PANELS; ++p) sum[u][r][p] += x[r * stride + k + u] * weight[p];
    }
  for (int r = 0; r < R; ++r)
    for (int p = 0; p < PANELS; ++p) {
      for (int u = 1; u < U; ++u) sum[0][r][p] += sum[u][r][p];
      store(sums + r * WIDTH + p * LANES, sum[0][r][p]);
    }
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

// y (rows, out) = x W^T + bias; added to what is there if `adds`.
template <class Format>
void product(Format, const float* x, long rows, long in, const int32_t* w, const float* bias, long out, float* y,
             bool adds, int threads) {
  for (long row = 0; row < rows; row += KEPT, x += KEPT * in, y += KEPT * out) {
    const long n = std::min<long>(KEPT, rows - row);
#pragma omp parallel for schedule(static) num_threads(threads)
    for (long task = 0; task < tasks(out); ++task) {
      alignas(64) float sums[KEPT * WIDTH];
      const long left = task * WIDTH, width = std::min<long>(WIDTH, out - left);
      std::memset(sums, 0, n * WIDTH * sizeof(float));
      for (long i = 0; bias && i < n; ++i) std::memcpy(sums + i * WIDTH, bias + left, width * sizeof(float));
      sum_up<Format>(x, n, in, w + task * (in / BLOCK) * Format::words * WIDTH, sums);
      for (long i = 0; i < n; ++i) {
        float *to = y + i * out + left, *from = sums + i * WIDTH;
        for (long o = 0; adds && o < width; ++o) from[o] += to[o];
        std::memcpy(to, from, width * sizeof(float));
      }
    }
  }
}

}  // namespace
