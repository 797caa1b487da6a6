// What a step of a language model spends its time on, as loops for processors with AVX2 or AVX-512. kernels.py calls
// them; operators.py says in torch's words what each of them computes.

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "products.h"
#include "vectors.h"

namespace {

constexpr long SLOTS = 64;  // that many keys, or values, stay in the first-level cache
constexpr int FEW = 4;      // scores, or vectors of a head, that are summed up side by side

constexpr long padded(long slots) { return (slots + LANES - 1) / LANES * LANES; }

template <int N> void some_scores(const float* query, const float* keys, long dim, float scale, float* to) {
  Floats sums[N] = {};
  for (long d = 0; d < dim; d += LANES) {
    const Floats q = load<Floats>(query + d);
    for (int i = 0; i < N; ++i) sums[i] += q * load<Floats>(keys + i * dim + d);
  }
  for (int i = 0; i < N; ++i) to[i] = sum(sums[i]) * scale;
}

void scores(const float* query, const float* keys, long slots, long dim, float scale, float* to) {
  long t = 0;
  for (; t + FEW <= slots; t += FEW) some_scores<FEW>(query, keys + t * dim, dim, scale, to + t);
  for (; t < slots; ++t) some_scores<1>(query, keys + t * dim, dim, scale, to + t);
}

template <int N> void add_some_values(const float* weights, const float* values, long slots, long dim, float* to) {
  Floats sums[N];
  for (int i = 0; i < N; ++i) sums[i] = load<Floats>(to + i * LANES);
  for (long t = 0; t < slots; ++t)
    for (int i = 0; i < N; ++i) sums[i] += weights[t] * load<Floats>(values + t * dim + i * LANES);
  for (int i = 0; i < N; ++i) store(to + i * LANES, sums[i]);
}

void add_values(const float* weights, const float* values, long slots, long dim, float* to) {
  long d = 0;
  for (; d + FEW * LANES <= dim; d += FEW * LANES) add_some_values<FEW>(weights, values + d, slots, dim, to + d);
  for (; d < dim; d += LANES) add_some_values<1>(weights, values + d, slots, dim, to + d);
}

// Weights in place of scores, whose sum is 1. There is room for whole vectors.
void softmax(float* scores, long slots) {
  constexpr float hidden = -std::numeric_limits<float>::infinity();
  const long room = padded(slots);
  std::fill(scores + slots, scores + room, hidden);
  const float top = *std::max_element(scores, scores + slots);
  Floats total = {};
  for (long t = 0; t < room; t += LANES) {
    const Floats weights = exp(load<Floats>(scores + t) - top);
    total += weights;
    store(scores + t, weights);
  }
  const float share = 1.0f / sum(total);
  for (long t = 0; t < room; t += LANES) store(scores + t, load<Floats>(scores + t) * share);
}

// Rotate pairs of numbers that lie half a head apart.
void rotate(const float* x, const float* cos, const float* sin, long dim, float* to) {
  const long half = dim / 2;
  for (long d = 0; d < half; ++d) {
    const float a = x[d], b = x[d + half];
    to[d] = a * cos[d] - b * sin[d];
    to[d + half] = b * cos[d + half] + a * sin[d + half];
  }
}

}  // namespace

extern "C" {

int vector() { return LANES; }

// Words of weights (out, in) in a format; `in` is a multiple of 32.
long words_of(int bits, long out, long in) {
  return in_format(bits, [&](auto format) { return tasks(out) * WIDTH * (in / BLOCK) * format.words; });
}

bool lay_out_weights(int bits, const float* weights, long out, long in, int32_t* words, int threads) {
  return in_format(bits, [&](auto format) { return lay_out(format, weights, out, in, words, threads); });
}

// x (rows, in), bias (out) or null, y (rows, out).
void multiply_weights(int bits, const float* x, long rows, long in, const int32_t* words, const float* bias, long out,
                      float* y, bool adds, int threads) {
  in_format(bits, [&](auto format) { product(format, x, rows, in, words, bias, out, y, adds, threads); });
}

// x, y (rows, width).
void rms_norm(const float* x, long rows, long width, const float* weight, float eps, float* y, int threads) {
#pragma omp parallel for schedule(static) num_threads(threads) if (rows * width > 1 << 14)
  for (long r = 0; r < rows; ++r) {
    const float* from = x + r * width;
    float* to = y + r * width;
    Floats squares = {};
    for (long i = 0; i < width; i += LANES) squares += load<Floats>(from + i) * load<Floats>(from + i);
    const float share = 1.0f / std::sqrt(sum(squares) / width + eps);
    for (long i = 0; i < width; i += LANES) store(to + i, load<Floats>(weight + i) * (load<Floats>(from + i) * share));
  }
}

// y (rows, width) = silu(gate) * up, which lie side by side in x (rows, 2 * width).
void silu_gate(const float* x, long rows, long width, float* y, int threads) {
#pragma omp parallel for schedule(static) num_threads(threads) if (rows * width > 1 << 14)
  for (long r = 0; r < rows; ++r)
    for (long i = 0; i < width; i += LANES) {
      const Floats gate = load<Floats>(x + 2 * r * width + i), up = load<Floats>(x + (2 * r + 1) * width + i);
      const auto is_negative = gate < 0.0f;
      const Floats small = exp(is_negative ? gate : -gate);  // of what is not positive
      store(y + r * width + i, gate * up * (is_negative ? small : Floats{} + 1.0f) / (small + 1.0f));
    }
}

// New states (rows, added, heads + 2 * groups, dim) are queries, keys and values. Rotates queries in place, and keys on
// their way to the slots that begin at `cursor` in keys (rows, groups, capacity, dim); values go to theirs as they are.
// cos and sin (rows, added, dim).
void append(float* states, const float* cos, const float* sin, long rows, long added, long heads, long groups, long dim,
            float* keys, float* values, long capacity, long cursor, int threads) {
#pragma omp parallel for schedule(static) num_threads(threads) if (rows * added > 16)
  for (long n = 0; n < rows * added; ++n) {
    const float *c = cos + n * dim, *s = sin + n * dim;
    float *query = states + n * (heads + 2 * groups) * dim, *key = query + heads * dim, *value = key + groups * dim;
    for (long h = 0; h < heads; ++h) rotate(query + h * dim, c, s, dim, query + h * dim);
    for (long g = 0; g < groups; ++g) {
      const long at = ((n / added * groups + g) * capacity + cursor + n % added) * dim;
      rotate(key + g * dim, c, s, dim, keys + at);
      std::memcpy(values + at, value + g * dim, dim * sizeof(float));
    }
  }
}

// softmax(scale q k^T) v of one position in every row, of whose `slots` slots from `left` on the first hidden[row] are
// not seen, nor those before the last `window` ones. States as `append` leaves them, keys and values (rows, groups,
// capacity, dim), result (rows, heads, dim). Keys and values are read once for all heads that share them.
void attend(const float* states, const float* keys, const float* values, long capacity, const int64_t* hidden,
            long rows, long heads, long groups, long dim, long left, long slots, long window, float scale,
            float* result, int threads) {
  const long shared = heads / groups;
#pragma omp parallel for schedule(static, 1) num_threads(threads)
  for (long task = 0; task < rows * groups; ++task) {
    const long r = task / groups, g = task % groups;
    const long first = std::max<long>(hidden[r], slots - window), seen = slots - first, room = padded(seen);
    const long at = (task * capacity + left + first) * dim;
    const float *query = states + (r * (heads + 2 * groups) + g * shared) * dim, *k = keys + at, *v = values + at;
    float* to = result + task * shared * dim;
    std::vector<float> weights(shared * room);
    for (long t = 0; t < seen; t += SLOTS)
      for (long h = 0; h < shared; ++h)
        scores(query + h * dim, k + t * dim, std::min(SLOTS, seen - t), dim, scale, &weights[h * room + t]);
    for (long h = 0; h < shared; ++h) softmax(&weights[h * room], seen);
    std::fill(to, to + shared * dim, 0.0f);
    for (long t = 0; t < seen; t += SLOTS)
      for (long h = 0; h < shared; ++h)
        add_values(&weights[h * room + t], v + t * dim, std::min(SLOTS, seen - t), dim, to + h * dim);
  }
}
}
