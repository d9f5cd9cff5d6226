// The loops over runs of entries. This file is compiled once for each instruction set, as namespace MOFO_ISA, and
// left to the compiler to vectorise: loops without branches over short runs that stay in the first-level cache.
//
// The results are those of update.py to the bit on every instruction set, because each operation is rounded as torch
// rounds it: products and sums apart, but for the two fused multiply-adds that torch's lerp_ and addcmul_ make. That
// needs -ffp-contract=off, and forbids -ffast-math.
//
// Only C functions and this file's own may be called here: of an inline function of the C++ library, which all
// compilations of this file would share, the linker keeps one, perhaps one that the processor at hand cannot run.
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

#include "runs.h"

// ---- Randomness: a hash of an entry's flat index and the key of its tensor and step (hashing.py).

inline uint32_t mix(uint32_t x) {  // the finaliser of MurmurHash3
  x = (x ^ x >> 16) * 0x85EBCA6Bu;
  x = (x ^ x >> 13) * 0xC2B2AE35u;
  return x ^ x >> 16;
}

inline uint32_t hash_index(int64_t index, int64_t key) {
  return mix(mix(uint32_t(index) ^ uint32_t(key)) + uint32_t(uint64_t(key) >> 32) + uint32_t(index >> 32));
}

// ---- Keys: what ranks the entries (scores() in selection.py). An entry whose momentum is not finite is INFINITE.

inline Key key_of_magnitude(float x) {
  const Key key = bits<Key>(x) & 0x7FFFFFFF;
  return key < INFINITE ? key : INFINITE;
}

// The key of an entry by its gradient, its new moments and its flat index.
template <Score score>
struct Ranking {
  int64_t noise_key;

  explicit Ranking(const Tensor& t) : noise_key(t.noise_key) {}

  Key operator()(float g, float m, float v, int64_t index) const {
    const Key momentum = key_of_magnitude(m);
    if (score == MOMENTUM) return momentum;
    float x = g;
    if (score == MOMENTUM_OVER_RMS) {
      x = fabsf(m) / sqrtf(v);  // 0/0 counts as 0, and v underflows before m does
      x = x != x ? 0.0f : x < FLT_MAX ? x : FLT_MAX;
    }
    if (score == RANDOM) {
      x = float(int32_t(hash_index(index, noise_key) >> 8)) * 0x1p-24f;
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

// ---- Moments: m <- m + (1 - beta1) * (g - m) and v <- beta2 * v + (1 - beta2) * g * g, rounded as lerp_ and
// addcmul_ do.

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

#include "choose.h"

// ---- Parameters: p <- (1 - lr * weight_decay) * p - step_size * m / (sqrt(v) / correction + eps).

void find_updates(const Tensor& t, const float* RESTRICT m, const float* RESTRICT v, int length,
                  float* RESTRICT updates) {
  const float correction = float(t.correction), eps = float(t.eps), step_size = float(-t.step_size);
  for (int i = 0; i < length; ++i) updates[i] = step_size * m[i] / (sqrtf(v[i]) / correction + eps);
}

inline float shrink_of_selected(const Tensor& t) { return t.decay_all ? 1.0f : float(t.shrink); }

// A parameter's new value, rounded at random where that is asked for, and else left to narrow (rounding.py).
inline float rounded(const Tensor& t, float x, int64_t index) {
  if (!t.random_rounding || !(fabsf(x) <= FLT_MAX)) return x;
  const uint32_t random = hash_index(index, t.rounding_key) >> 16;
  return bits<float>((bits<uint32_t>(x) + random) & 0xFFFF0000u);
}

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
    p = narrow<T>(rounded(t, widen(p) * shrink + updates[i], chosen.start + at));
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
  if (bracket.low < bracket.high && first + count <= band.capacity) {
    memcpy(band.keys + first, inside, count * sizeof(Key));
  }
}

// The candidates, if there is room for them.
void list(const Key* keys, const float* m, const float* v, const Chosen& chosen, int64_t position,
          Candidates* candidates) {
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

// Calls visit(key, at, size) for each run of a tensor whose moments are up to date, where key(i) is the key of an
// entry.
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

void histogram(const Tensor& t, int64_t start, int64_t length, Bracket bracket, int shift, int64_t above,
               int64_t* bins) {
  Chosen chosen;
  for_runs(t, start, length, [&](auto key, int64_t, int size) {
    chosen.length = size;
    chosen.choose(key, bracket.low);
    for (int i = 0; i < chosen.count; ++i) {
      const Key found = key(chosen.positions[i]);
      ++bins[found > bracket.high ? above : (found - bracket.low) >> shift];
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
      p = narrow<T>(rounded(t, widen(p) * shrink + updates[i], start + list[i].position));
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
    for (int i = 0; t.random_rounding && i < size; ++i) p[i] = rounded(t, p[i], at + i);
    store(t, PARAM, at, size, p);
  }
}

}  // namespace

extern const Kernel kernel = {moments, peek, count_equal, histogram, apply, apply_listed, everything};

}  // namespace MOFO_ISA
}  // namespace mofo
