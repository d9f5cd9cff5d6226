// The loops over runs of entries. This file is compiled once for each instruction set, as namespace MOFO_ISA, and left to
// the compiler to vectorise: loops without branches over short runs that stay in the first-level cache.
//
// The results are those of update.py to the bit on every instruction set, because each operation is rounded as torch
// rounds it: products and sums apart, but for the two fused multiply-adds that torch's lerp_ and addcmul_ make. That needs
// -ffp-contract=off, and forbids -ffast-math.
//
// Only C functions and this file's own may be called here: of an inline function of the C++ library, which all compilations
// of this file would share, the linker keeps one, perhaps one that the processor at hand cannot run.
#if defined(__AVX2__)
#include <immintrin.h>
#endif

#include "kernel.h"

#include <float.h>
#include <math.h>
#include <string.h>

#if defined(_MSC_VER)
#define RESTRICT __restrict
#define PREFETCH(address) ((void)0)
#define INDEPENDENT __pragma(loop(ivdep))
#elif defined(__clang__)
#define RESTRICT __restrict__
#define PREFETCH(address) __builtin_prefetch(address, 1)
#define INDEPENDENT _Pragma("clang loop vectorize(assume_safety)")
#else
#define RESTRICT __restrict__
#define PREFETCH(address) __builtin_prefetch(address, 1)
#define INDEPENDENT _Pragma("GCC ivdep") _Pragma("GCC unroll 1")
#endif

namespace mofo {
namespace MOFO_ISA {
namespace {

constexpr int RUN = 256;    // entries that are worked on together
constexpr int AHEAD = 512;  // how many entries before their use memory is asked for them

template <class To, class From>
inline To bits(From from) {
  static_assert(sizeof(To) == sizeof(From), "the same bits");
  To to;
  memcpy(&to, &from, sizeof(to));
  return to;
}

// ---- 16-bit floats. Branch-free, so that they vectorise.

struct Half {
  uint16_t bits;
};
struct BFloat {
  uint16_t bits;
};

inline float widen(float x) { return x; }
inline float widen(BFloat x) { return bits<float>(uint32_t(x.bits) << 16); }
inline float widen(Half x) {
  const uint32_t magnitude = uint32_t(x.bits & 0x7FFF) << 13;
  // The exponent is 112 too small; multiplying by 2^112 also normalises subnormals. Infinity and NaN keep all ones.
  const float scaled = bits<float>(magnitude) * 0x1p112f;
  const uint32_t special = magnitude | 0x7F800000u;
  const uint32_t finite = bits<uint32_t>(scaled);
  return bits<float>((magnitude >= 0x0F800000u ? special : finite) | uint32_t(x.bits & 0x8000) << 16);
}

template <class T>
inline T narrow(float x);
template <>
inline float narrow<float>(float x) {
  return x;
}
template <>
inline BFloat narrow<BFloat>(float x) {
  const uint32_t wide = bits<uint32_t>(x);
  const uint32_t rounded = (wide + 0x7FFF + (wide >> 16 & 1)) >> 16;  // to nearest, ties to even
  return {uint16_t(x != x ? 0x7FC0 : rounded)};
}
template <>
inline Half narrow<Half>(float x) {
  const uint32_t wide = bits<uint32_t>(x);
  const uint32_t sign = wide >> 16 & 0x8000;
  const uint32_t magnitude = wide & 0x7FFFFFFF;
  uint32_t half;
  if (magnitude >= 0x47800000) {  // 65536 and more, infinity, NaN
    half = magnitude > 0x7F800000 ? 0x7E00 : 0x7C00;
  } else if (magnitude < 0x38800000) {  // subnormal: adding 1/2 rounds at its last place, 2^-24
    half = bits<uint32_t>(bits<float>(magnitude) + 0.5f) - 0x3F000000;
  } else {
    half = (magnitude - 0x38000000 + 0xFFF + (magnitude >> 13 & 1)) >> 13;  // to nearest, ties to even
  }
  return {uint16_t(sign | half)};
}

// ---- Runs of entries as contiguous float32, whatever the type and the strides of the tensor.

// Where the entries of a run lie, in entries from the start of an operand of any strides.
void find_offsets(const Tensor& t, int operand, int64_t start, int length, int64_t* RESTRICT offsets) {
  const int64_t dims = t.layout[0];
  const int64_t* sizes = t.layout + 1;
  const int64_t* strides = sizes + dims * (1 + operand);
  int64_t index[64];
  int64_t offset = 0;
  for (int64_t d = dims - 1; d >= 0; --d) {
    index[d] = start % sizes[d];
    start /= sizes[d];
    offset += index[d] * strides[d];
  }
  for (int i = 0; i < length; ++i) {
    offsets[i] = offset;
    for (int64_t d = dims - 1; d >= 0; --d) {
      offset += strides[d];
      if (++index[d] < sizes[d]) break;
      offset -= strides[d] * sizes[d];
      index[d] = 0;
    }
  }
}

template <class T>
void load_as(const Tensor& t, int operand, int64_t start, int length, float* RESTRICT out) {
  const T* data = static_cast<const T*>(t.data[operand]);
  if (!t.layout) {
    for (int i = 0; i < length; ++i) out[i] = widen(data[start + i]);
    return;
  }
  int64_t offsets[RUN];
  find_offsets(t, operand, start, length, offsets);
  for (int i = 0; i < length; ++i) out[i] = widen(data[offsets[i]]);
}

template <class T>
void store_as(const Tensor& t, int operand, int64_t start, int length, const float* RESTRICT values) {
  T* data = static_cast<T*>(t.data[operand]);
  if (!t.layout) {
    for (int i = 0; i < length; ++i) data[start + i] = narrow<T>(values[i]);
    return;
  }
  int64_t offsets[RUN];
  find_offsets(t, operand, start, length, offsets);
  for (int i = 0; i < length; ++i) data[offsets[i]] = narrow<T>(values[i]);
}

inline Dtype dtype_of(const Tensor& t, int operand) { return operand <= GRAD ? t.dtype[operand] : FLOAT32; }

// The entries of a run: in place where they are contiguous float32, else a copy in `buffer`.
float* load(const Tensor& t, int operand, int64_t start, int length, float* buffer) {
  const Dtype dtype = dtype_of(t, operand);
  if (dtype == FLOAT32 && !t.layout) return static_cast<float*>(t.data[operand]) + start;
  if (dtype == FLOAT32) load_as<float>(t, operand, start, length, buffer);
  if (dtype == BFLOAT16) load_as<BFloat>(t, operand, start, length, buffer);
  if (dtype == FLOAT16) load_as<Half>(t, operand, start, length, buffer);
  return buffer;
}

// Write back what load gave, unless it was the tensor itself.
void store(const Tensor& t, int operand, int64_t start, int length, const float* values) {
  const Dtype dtype = dtype_of(t, operand);
  if (dtype == FLOAT32 && !t.layout) return;
  if (dtype == FLOAT32) store_as<float>(t, operand, start, length, values);
  if (dtype == BFLOAT16) store_as<BFloat>(t, operand, start, length, values);
  if (dtype == FLOAT16) store_as<Half>(t, operand, start, length, values);
}

// Asks for memory that is needed soon, where it lies in one piece: it arrives while something else is worked on.
inline void prefetch(const Tensor& t, int operand, int64_t start, int length) {
  if (t.layout) return;
  const int64_t itemsize = dtype_of(t, operand) == FLOAT32 ? 4 : 2;
  const char* data = static_cast<const char*>(t.data[operand]) + start * itemsize;
  for (int64_t i = 0; i < length * itemsize; i += 64) PREFETCH(data + i);
}

const float* load_grad(const Tensor& t, int64_t start, int length, float* buffer) {
  const float* grad = load(t, GRAD, start, length, buffer);
  if (!t.maximize) return grad;
  for (int i = 0; i < length; ++i) buffer[i] = -grad[i];
  return buffer;
}

// ---- Keys: what ranks the entries (scores() in selection.py). An entry whose momentum is not finite is INFINITE.

inline Key key_of_magnitude(float x) {
  const Key key = bits<Key>(x) & 0x7FFFFFFF;
  return key < INFINITE ? key : INFINITE;
}

inline uint32_t mix(uint32_t x) {  // the finaliser of MurmurHash3
  x = (x ^ x >> 16) * 0x85EBCA6Bu;
  x = (x ^ x >> 13) * 0xC2B2AE35u;
  return x ^ x >> 16;
}

// The key of an entry by its gradient, its new moments and its flat index.
template <Score score>
struct Ranking {
  uint32_t first, second;

  explicit Ranking(const Tensor& t) : first(uint32_t(t.noise_key)), second(uint32_t(t.noise_key >> 32)) {}

  Key operator()(float g, float m, float v, int64_t index) const {
    const Key momentum = key_of_magnitude(m);
    if (score == MOMENTUM) return momentum;
    float x = g;
    if (score == MOMENTUM_OVER_RMS) {
      x = fabsf(m) / sqrtf(v);  // 0/0 counts as 0, and v underflows before m does
      x = x != x ? 0.0f : x < FLT_MAX ? x : FLT_MAX;
    }
    if (score == RANDOM) {
      const uint32_t hash = mix(mix(uint32_t(index) ^ first) + second + uint32_t(index >> 32));
      x = float(int32_t(hash >> 8)) * 0x1p-24f;
    }
    return momentum == INFINITE ? INFINITE : bits<Key>(x) & 0x7FFFFFFF;
  }
};

// Calls loop(ranking) with the ranking by the tensor's score.
template <class Loop>
inline void with_ranking(const Tensor& t, Loop loop) {
  if (t.score == MOMENTUM) loop(Ranking<MOMENTUM>(t));
  if (t.score == GRADIENT) loop(Ranking<GRADIENT>(t));
  if (t.score == MOMENTUM_OVER_RMS) loop(Ranking<MOMENTUM_OVER_RMS>(t));
  if (t.score == RANDOM) loop(Ranking<RANDOM>(t));
}

// ---- Moments: m <- m + (1 - beta1) * (g - m) and v <- beta2 * v + (1 - beta2) * g * g, rounded as lerp_ and addcmul_ do.

struct Decay {
  explicit Decay(const Tensor& t)
      : from_old(fabsf(float(t.lerp_weight)) < 0.5f),
        weight(from_old ? float(t.lerp_weight) : float(t.lerp_weight) - 1),
        beta2(float(t.beta2)),
        value(float(t.addcmul_value)) {}

  const bool from_old;  // lerp_ starts from the nearer end
  const float weight, beta2, value;

  float momentum(float g, float m) const { return fmaf(weight, g - m, from_old ? m : g); }
  float square(float g, float v) const { return fmaf(value * g, g, v * beta2); }
};

// ---- Choosing among keys.

// For each set of eight marks, a bit each, their positions in ascending order, and how many there are.
struct Positions {
  uint16_t of[256][8];
  uint8_t count[256];

  constexpr Positions() : of(), count() {
    for (int set = 0; set < 256; ++set) {
      for (int bit = 0; bit < 8; ++bit) {
        if (set >> bit & 1) of[set][count[set]++] = uint16_t(bit);
      }
    }
  }
};
constexpr Positions POSITIONS;

#include "mask.h"

// Appends the positions of the entries of a line, which begins at `first`, whose bit is set. Which ones are is unpredictable,
// so there are no branches on them. Writes up to eight positions more than there are.
inline int append_positions(uint32_t mask, int first, uint16_t* positions, int count) {
  for (int i = 0; i < LINE; i += 8, mask >>= 8) {
    const uint32_t set = mask & 0xFF;
    for (int j = 0; j < 8; ++j) positions[count + j] = uint16_t(POSITIONS.of[set][j] + (first + i));
    count += POSITIONS.count[set];
  }
  return count;
}

// Entries of a run that were chosen.
struct Chosen {
  int64_t start;
  int length, count;
  uint16_t positions[RUN + 8];

  // Those with key(i) >= low. Calls key once for each i < length.
  template <class KeyOf>
  void choose(KeyOf key, Key low) {
    count = 0;
    Key keys[LINE];
    int line = 0;
    for (; line + LINE <= length; line += LINE) {
      INDEPENDENT for (int i = 0; i < LINE; ++i) keys[i] = key(line + i);
      count = append_positions(reached(keys, low), line, positions, count);
    }
    for (; line < length; ++line) {
      positions[count] = uint16_t(line);
      count += key(line) >= low;
    }
  }
};

// ---- Parameters: p <- (1 - lr * weight_decay) * p - step_size * m / (sqrt(v) / correction + eps).

void find_updates(const Tensor& t, const float* RESTRICT m, const float* RESTRICT v, int length, float* RESTRICT updates) {
  const float correction = float(t.correction), eps = float(t.eps), step_size = float(-t.step_size);
  for (int i = 0; i < length; ++i) updates[i] = step_size * m[i] / (sqrtf(v[i]) / correction + eps);
}

inline float shrink_of_selected(const Tensor& t) { return t.decay_all ? 1.0f : float(t.shrink); }

// Asks for the memory that move will need.
void prefetch_chosen(const Tensor& t, const Chosen& chosen) {
  if (t.layout) return;
  const char* p = static_cast<const char*>(t.data[PARAM]);
  const float* v = static_cast<const float*>(t.data[EXP_AVG_SQ]) + chosen.start;
  const int64_t itemsize = t.dtype[PARAM] == FLOAT32 ? 4 : 2;
  for (int i = 0; i < chosen.count; ++i) {
    PREFETCH(v + chosen.positions[i]);
    PREFETCH(p + (chosen.start + chosen.positions[i]) * itemsize);
  }
}

template <class T>
void move_as(const Tensor& t, const Chosen& chosen, const float* updates) {
  int64_t offsets[RUN];
  const bool strided = t.layout;
  if (strided) find_offsets(t, PARAM, chosen.start, chosen.length, offsets);
  T* data = static_cast<T*>(t.data[PARAM]) + (strided ? 0 : chosen.start);
  const float shrink = shrink_of_selected(t);
  for (int i = 0; i < chosen.count; ++i) {
    const int at = chosen.positions[i];
    T& p = data[strided ? offsets[at] : at];
    p = narrow<T>(widen(p) * shrink + updates[i]);
  }
}

void move(const Tensor& t, const Chosen& chosen) {
  float buffer_m[RUN], buffer_v[RUN], chosen_m[RUN], chosen_v[RUN], updates[RUN];
  const float* m = load(t, EXP_AVG, chosen.start, chosen.length, buffer_m);
  const float* v = load(t, EXP_AVG_SQ, chosen.start, chosen.length, buffer_v);
  for (int i = 0; i < chosen.count; ++i) {
    chosen_m[i] = m[chosen.positions[i]];
    chosen_v[i] = v[chosen.positions[i]];
  }
  // Whole vectors are faster than a remainder entry by entry; what is computed too much is not used.
  const int whole = (chosen.count + LINE - 1) / LINE * LINE;
  for (int i = chosen.count; i < whole; ++i) chosen_m[i] = chosen_v[i] = 0;
  find_updates(t, chosen_m, chosen_v, whole, updates);
  if (t.dtype[PARAM] == FLOAT32) move_as<float>(t, chosen, updates);
  if (t.dtype[PARAM] == BFLOAT16) move_as<BFloat>(t, chosen, updates);
  if (t.dtype[PARAM] == FLOAT16) move_as<Half>(t, chosen, updates);
}

void shrink_all(const Tensor& t, int64_t start, int length) {
  if (!t.decay_all || t.shrink == 1) return;
  float buffer[RUN];
  float* p = load(t, PARAM, start, length, buffer);
  const float shrink = float(t.shrink);
  for (int i = 0; i < length; ++i) p[i] *= shrink;
  store(t, PARAM, start, length, p);
}

// ---- What the pass over the moments keeps of a run.

// The keys inside the bracket, of those that reach it.
void collect(const Key* keys, int reached, Bracket bracket, Band& band) {
  Key inside[RUN + 1];
  int count = 0;
  for (int i = 0; i < reached; ++i) {
    inside[count] = keys[i];
    count += keys[i] <= bracket.high;
  }
  band.above.fetch_add(reached - count, std::memory_order_relaxed);
  const int64_t first = band.inside.fetch_add(count, std::memory_order_relaxed);
  if (bracket.low < bracket.high && first + count <= band.capacity) memcpy(band.keys + first, inside, count * sizeof(Key));
}

// The candidates, if there is room for them.
void list(const Key* keys, const float* m, const float* v, const Chosen& chosen, int64_t position, Candidates* candidates) {
  if (candidates->until != position || candidates->count + chosen.count > candidates->capacity) return;
  Candidate* next = candidates->list + candidates->count;
  for (int i = 0; i < chosen.count; ++i) {
    const int at = chosen.positions[i];
    next[i] = {keys[i], m[at], v[at], uint32_t(position + at)};
  }
  candidates->count += chosen.count;
  candidates->until += chosen.length;
}

// ---- The entry points: runs of at most RUN entries, one after the other.

inline int run_length(int64_t done, int64_t length) { return length - done < RUN ? int(length - done) : RUN; }

void moments(const Tensor& t, int64_t start, int64_t length, Bracket bracket, Band& band, Candidates* candidates) {
  float buffer_g[RUN], buffer_m[RUN], buffer_v[RUN];
  Key keys[RUN];
  Chosen chosen;
  const Decay decay(t);
  with_ranking(t, [&](auto rank) {
    for (int64_t done = 0; done < length; done += RUN) {
      const int64_t at = start + done;
      const int size = run_length(done, length);
      if (done + AHEAD + RUN <= length) {
        prefetch(t, GRAD, at + AHEAD, RUN);
        prefetch(t, EXP_AVG, at + AHEAD, RUN);
        prefetch(t, EXP_AVG_SQ, at + AHEAD, RUN);
      }
      const float* g = load_grad(t, at, size, buffer_g);
      float* m = load(t, EXP_AVG, at, size, buffer_m);
      float* v = load(t, EXP_AVG_SQ, at, size, buffer_v);
      const auto update = [=](int i) {
        const float new_m = decay.momentum(g[i], m[i]), new_v = decay.square(g[i], v[i]);
        m[i] = new_m;
        v[i] = new_v;
        return rank(g[i], new_m, new_v, at + i);
      };
      if (bracket.low == 0) {  // all reach it
        INDEPENDENT for (int i = 0; i < size; ++i) keys[i] = update(i);
        store(t, EXP_AVG, at, size, m);
        store(t, EXP_AVG_SQ, at, size, v);
        collect(keys, size, bracket, band);
        continue;
      }
      chosen.length = size;
      chosen.choose(update, bracket.low);
      store(t, EXP_AVG, at, size, m);
      store(t, EXP_AVG_SQ, at, size, v);
      for (int i = 0; i < chosen.count; ++i) {
        const int p = chosen.positions[i];
        keys[i] = rank(g[p], m[p], v[p], at + p);
      }
      collect(keys, chosen.count, bracket, band);
      if (candidates) list(keys, m, v, chosen, done, candidates);
    }
  });
}

void peek(const Tensor& t, const int64_t* starts, int lines, Key* keys) {
  float buffer_g[LINE], buffer_m[LINE], buffer_v[LINE];
  const Decay decay(t);
  const bool need_v = t.score == MOMENTUM_OVER_RMS;
  for (int line = 0; line < lines; ++line) {
    prefetch(t, GRAD, starts[line], LINE);
    prefetch(t, EXP_AVG, starts[line], LINE);
    if (need_v) prefetch(t, EXP_AVG_SQ, starts[line], LINE);
  }
  with_ranking(t, [&](auto rank) {
    for (int line = 0; line < lines; ++line) {
      const int64_t start = starts[line];
      const float* g = load_grad(t, start, LINE, buffer_g);
      const float* m = load(t, EXP_AVG, start, LINE, buffer_m);
      const float* v = need_v ? load(t, EXP_AVG_SQ, start, LINE, buffer_v) : m;
      for (int i = 0; i < LINE; ++i) {
        keys[line * LINE + i] = rank(g[i], decay.momentum(g[i], m[i]), decay.square(g[i], v[i]), start + i);
      }
    }
  });
}

// Calls visit(key, at, size) for each run of a tensor whose moments are up to date, where key(i) is the key of an entry.
template <class Visit>
inline void for_runs(const Tensor& t, int64_t start, int64_t length, Visit visit) {
  float buffer_g[RUN], buffer_m[RUN], buffer_v[RUN];
  with_ranking(t, [&](auto rank) {
    for (int64_t done = 0; done < length; done += RUN) {
      const int64_t at = start + done;
      const int size = run_length(done, length);
      const float* m = load(t, EXP_AVG, at, size, buffer_m);
      const float* v = t.score == MOMENTUM_OVER_RMS ? load(t, EXP_AVG_SQ, at, size, buffer_v) : m;
      const float* g = t.score == GRADIENT ? load_grad(t, at, size, buffer_g) : m;
      visit([=](int i) { return rank(g[i], m[i], v[i], at + i); }, at, size);
    }
  });
}

int64_t count_equal(const Tensor& t, int64_t start, int64_t length, Key wanted) {
  int64_t total = 0;
  for_runs(t, start, length, [&](auto key, int64_t, int size) {
    int32_t count = 0;
    for (int i = 0; i < size; ++i) count += key(i) == wanted;
    total += count;
  });
  return total;
}

void histogram(const Tensor& t, int64_t start, int64_t length, Bracket bracket, int shift, int64_t* bins) {
  for_runs(t, start, length, [&](auto key, int64_t, int size) {
    Key keys[RUN];
    for (int i = 0; i < size; ++i) keys[i] = key(i);
    for (int i = 0; i < size; ++i) {
      if (keys[i] >= bracket.low && keys[i] <= bracket.high) ++bins[(keys[i] - bracket.low) >> shift];
    }
  });
}

void apply(const Tensor& t, int64_t start, int64_t length, Key above, int64_t ties) {
  // Memory for one run arrives while the next one is looked at.
  Chosen runs[2];
  runs[0].count = runs[1].count = 0;
  int turn = 0;
  for_runs(t, start, length, [&](auto key, int64_t at, int size) {
    shrink_all(t, at, size);
    Chosen& chosen = runs[turn];
    chosen.start = at;
    chosen.length = size;
    chosen.choose(key, ties > 0 ? above : above + 1);
    if (ties > 0) {
      int kept = 0;
      for (int i = 0; i < chosen.count; ++i) {
        const int position = chosen.positions[i];
        chosen.positions[kept] = uint16_t(position);
        kept += key(position) > above || ties-- > 0;
      }
      chosen.count = kept;
    }
    prefetch_chosen(t, chosen);
    turn = 1 - turn;
    if (runs[turn].count) move(t, runs[turn]);
  });
  turn = 1 - turn;
  if (runs[turn].count) move(t, runs[turn]);
}

template <class T>
int64_t apply_listed_as(const Tensor& t, int64_t start, const Candidates& candidates, Key above, int64_t ties) {
  T* data = static_cast<T*>(t.data[PARAM]) + start;
  const float shrink = shrink_of_selected(t);
  for (int64_t first = 0; first < candidates.count; first += RUN) {
    const Candidate* list = candidates.list + first;
    const int count = run_length(first, candidates.count), next = run_length(first + count, candidates.count);
    for (int i = 0; i < next; ++i) PREFETCH(data + list[RUN + i].position);  // for the next turn
    float m[RUN], v[RUN], updates[RUN];
    for (int i = 0; i < count; ++i) {
      m[i] = list[i].exp_avg;
      v[i] = list[i].exp_avg_sq;
    }
    find_updates(t, m, v, count, updates);
    for (int i = 0; i < count; ++i) {
      if (list[i].key < above || (list[i].key == above && ties-- <= 0)) continue;
      T& p = data[list[i].position];
      p = narrow<T>(widen(p) * shrink + updates[i]);
    }
  }
  return ties > 0 ? ties : 0;
}

int64_t apply_listed(const Tensor& t, int64_t start, const Candidates& candidates, Key above, int64_t ties) {
  if (t.dtype[PARAM] == BFLOAT16) return apply_listed_as<BFloat>(t, start, candidates, above, ties);
  if (t.dtype[PARAM] == FLOAT16) return apply_listed_as<Half>(t, start, candidates, above, ties);
  return apply_listed_as<float>(t, start, candidates, above, ties);
}

void everything(const Tensor& t, int64_t start, int64_t length) {
  float buffer_g[RUN], buffer_m[RUN], buffer_v[RUN], buffer_p[RUN], updates[RUN];
  const Decay decay(t);
  const float shrink = shrink_of_selected(t);
  for (int64_t done = 0; done < length; done += RUN) {
    const int64_t at = start + done;
    const int size = run_length(done, length);
    const float* g = load_grad(t, at, size, buffer_g);
    float* m = load(t, EXP_AVG, at, size, buffer_m);
    float* v = load(t, EXP_AVG_SQ, at, size, buffer_v);
    for (int i = 0; i < size; ++i) {
      const float old_m = m[i], old_v = v[i];
      m[i] = decay.momentum(g[i], old_m);
      v[i] = decay.square(g[i], old_v);
    }
    store(t, EXP_AVG, at, size, m);
    store(t, EXP_AVG_SQ, at, size, v);
    shrink_all(t, at, size);
    find_updates(t, m, v, size, updates);
    float* p = load(t, PARAM, at, size, buffer_p);
    for (int i = 0; i < size; ++i) p[i] = p[i] * shrink + updates[i];
    store(t, PARAM, at, size, p);
  }
}

}  // namespace

extern const Kernel kernel = {moments, peek, count_equal, histogram, apply, apply_listed, everything};

}  // namespace MOFO_ISA
}  // namespace mofo
