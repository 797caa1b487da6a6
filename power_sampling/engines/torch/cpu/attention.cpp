// Attention of one new position of every row, as softmax(scale q k^T) v. Keys and values are read once for all heads that
// share them.

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <limits>
#include <vector>

namespace {

constexpr int LANES = 16, SLOTS = 64;  // that many keys, or values, stay in the first-level cache
constexpr int MOST = 16;               // vectors of a head
typedef float Floats __attribute__((vector_size(64)));
typedef int32_t Words __attribute__((vector_size(64)));

Floats load(const float* from) {
  Floats v;
  std::memcpy(&v, from, sizeof v);
  return v;
}

void store(float* to, Floats v) { std::memcpy(to, &v, sizeof v); }

constexpr long padded(long slots) { return (slots + LANES - 1) / LANES * LANES; }

float sum(Floats v) {
  v += __builtin_shuffle(v, Words{8, 9, 10, 11, 12, 13, 14, 15, 0, 1, 2, 3, 4, 5, 6, 7});
  v += __builtin_shuffle(v, Words{4, 5, 6, 7, 0, 1, 2, 3, 12, 13, 14, 15, 8, 9, 10, 11});
  v += __builtin_shuffle(v, Words{2, 3, 0, 1, 6, 7, 4, 5, 10, 11, 8, 9, 14, 15, 12, 13});
  return v[0] + v[1];
}

// D vectors of 16 make a head.
template <int D> void scores(const float* query, const float* keys, long slots, float scale, float* to) {
  Floats q[D];
  for (int d = 0; d < D; ++d) q[d] = load(query + d * LANES) * scale;
  for (long t = 0; t < slots; ++t, keys += D * LANES) {
    Floats product = q[0] * load(keys);
    for (int d = 1; d < D; ++d) product += q[d] * load(keys + d * LANES);
    to[t] = sum(product);
  }
}

template <int D> void add_values(const float* weights, const float* values, long slots, float* to) {
  Floats sums[D];
  for (int d = 0; d < D; ++d) sums[d] = load(to + d * LANES);
  for (long t = 0; t < slots; ++t, values += D * LANES)
    for (int d = 0; d < D; ++d) sums[d] += weights[t] * load(values + d * LANES);
  std::memcpy(to, sums, sizeof sums);
}

// exp of numbers that are not positive; 0 below -87. The reduced argument's polynomial is that of Cephes' expf.
Floats exp(Floats x) {
  const auto is_tiny = x < -87.0f;
  x = is_tiny ? Floats{} : x;
  const Words n = __builtin_convertvector(x * 1.44269504f - 0.5f, Words);
  const Floats whole = __builtin_convertvector(n, Floats);
  const Floats r = x - whole * 0.693359375f + whole * 2.12194440e-4f;
  Floats p = r * 1.9875691500e-4f + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  const Words power = (n + 127) << 23;
  const Floats result = (p * r * r + r + 1.0f) * load(reinterpret_cast<const float*>(&power));
  return is_tiny ? Floats{} : result;
}

// Weights in place of scores; those of hidden slots are 0. Their sum is 1. There is room for whole vectors.
void softmax(float* scores, const bool* mask, long slots) {
  constexpr float hidden = -std::numeric_limits<float>::infinity();
  for (long t = 0; mask && t < slots; ++t) scores[t] = mask[t] ? scores[t] : hidden;
  const long room = padded(slots);
  std::fill(scores + slots, scores + room, hidden);
  Floats highest = load(scores), total = {};
  for (long t = 0; t < room; t += LANES) {
    const Floats x = load(scores + t);
    highest = x > highest ? x : highest;
  }
  float top = hidden;
  for (int i = 0; i < LANES; ++i) top = std::max(top, highest[i]);
  for (long t = 0; t < room; t += LANES) {
    const Floats weights = exp(load(scores + t) - top);
    total += weights;
    store(scores + t, weights);
  }
  const float share = 1.0f / sum(total);
  for (long t = 0; t < room; t += LANES) store(scores + t, load(scores + t) * share);
}

struct Problem {
  const float *query, *keys, *values;
  const bool* mask;
  long rows, groups, heads, slots;          // heads of a group
  long row, group, value_row, value_group;  // strides, in floats
  float scale;
  float* to;
};

template <int D> void attend(const Problem& p, int threads) {
  constexpr long dim = D * LANES;
#pragma omp parallel for schedule(static) num_threads(threads)
  for (long task = 0; task < p.rows * p.groups; ++task) {
    const long r = task / p.groups, g = task % p.groups;
    const float *keys = p.keys + r * p.row + g * p.group, *values = p.values + r * p.value_row + g * p.value_group;
    const float* query = p.query + task * p.heads * dim;
    float* to = p.to + task * p.heads * dim;
    const long room = padded(p.slots);
    std::vector<float> weights(p.heads * room);
    for (long t = 0; t < p.slots; t += SLOTS)
      for (long h = 0; h < p.heads; ++h)
        scores<D>(query + h * dim, keys + t * dim, std::min<long>(SLOTS, p.slots - t), p.scale,
                  &weights[h * room + t]);
    for (long h = 0; h < p.heads; ++h) softmax(&weights[h * room], p.mask ? p.mask + r * p.slots : nullptr, p.slots);
    std::fill(to, to + p.heads * dim, 0.0f);
    for (long t = 0; t < p.slots; t += SLOTS)
      for (long h = 0; h < p.heads; ++h)
        add_values<D>(&weights[h * room + t], values + t * dim, std::min<long>(SLOTS, p.slots - t), to + h * dim);
  }
}

template <int D> void attend_some(long dim, const Problem& p, int threads) {
  if (dim == D * LANES) return attend<D>(p, threads);
  if constexpr (D > 1) attend_some<D - 1>(dim, p, threads);
}

}  // namespace

extern "C" {

int longest_head() { return MOST * LANES; }

// query and result (rows, groups * heads, dim), keys and values (rows, groups, slots, dim) with the first two strides
// given, mask (rows, slots) or null. `dim` is a multiple of 16.
void attend_one(const float* query, const float* keys, const float* values, const bool* mask, long rows, long groups,
                long heads, long slots, long dim, long row, long group, long value_row, long value_group, float scale,
                float* to, int threads) {
  attend_some<MOST>(
      dim, {query, keys, values, mask, rows, groups, heads, slots, row, group, value_row, value_group, scale, to}, threads);
}
}
