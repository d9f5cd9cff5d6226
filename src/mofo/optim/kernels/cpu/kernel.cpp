// The loops over runs of entries. This file is compiled once for each instruction set, as namespace MOFO_ISA, and
// left to the compiler to vectorise: loops without branches over short runs that stay in the first-level cache.
//
// Five headers are included within that namespace, in an order that matters: codes.h reads and writes moments in 8
// bits, runs.h gives the entries of a run as float32, choose.h (with mask.h) which of its keys are high enough, move.h
// the update of the chosen entries.
//
// The results are those of rule/update.py to the bit on every instruction set, because each operation is rounded as
// torch rounds it: products and sums apart, but for the two fused multiply-adds that torch's lerp_ and addcmul_ make.
// That needs -ffp-contract=off, and forbids -ffast-math.
//
// Only C functions and this file's own may be called here: of an inline function of the C++ library, which all
// compilations of this file would share, the linker keeps one, perhaps one that the processor at hand cannot run.
#if defined(__AVX2__)
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"  // in GCC's own header, its bug 105593
#pragma GCC diagnostic ignored "-Wuninitialized"
#endif
#include <immintrin.h>
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic pop
#endif
#endif
#if defined(_MSC_VER)
#include <intrin.h>
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
#define PREFETCH(address) (__builtin_prefetch(address, 1), side_effect())
#define INDEPENDENT _Pragma("clang loop vectorize(assume_safety)")
#else
#define RESTRICT __restrict__
#define PREFETCH(address) (__builtin_prefetch(address, 1), side_effect())
#define INDEPENDENT _Pragma("GCC ivdep") _Pragma("GCC unroll 1")
#endif

namespace mofo {
namespace MOFO_ISA {
namespace {

#if !defined(_MSC_VER)
// GCC takes a function that only prefetches for one without effects, and leaves out its calls.
__attribute__((always_inline)) inline void side_effect() { __asm__ volatile(""); }
#endif

constexpr int RUN = 256;   // entries that are worked on together
constexpr int AHEAD = 64;  // of the next run: the processor itself fetches ahead only while it reads in sequence

template <class To, class From>
inline To bits(From from) {
  static_assert(sizeof(To) == sizeof(From), "the same bits");
  To to;
  memcpy(&to, &from, sizeof(to));
  return to;
}

#include "codes.h"

#include "runs.h"

// ---- Randomness: a hash of an entry's row-major index and the key of its tensor and step (hashing.py).

inline uint32_t mix(uint32_t x) {  // the finaliser of MurmurHash3
  x = (x ^ x >> 16) * 0x85EBCA6Bu;
  x = (x ^ x >> 13) * 0xC2B2AE35u;
  return x ^ x >> 16;
}

inline uint32_t hash_index(int64_t index, int64_t key) {
  return mix(mix(uint32_t(index) ^ uint32_t(key)) + uint32_t(uint64_t(key) >> 32) + uint32_t(index >> 32));
}

// ---- Keys: what ranks the entries (scores() in scores.py). An entry whose momentum is not finite is INFINITE.

inline Key key_of_magnitude(float x) {
  const Key key = bits<Key>(x) & 0x7FFFFFFF;
  return key < INFINITE ? key : INFINITE;
}

// The next higher key; the highest, which no entry has, stays.
inline Key next_key(Key key) { return key < HIGHEST ? key + 1 : HIGHEST; }

// The key of an entry, from its gradient, its new moments and its row-major index.
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

  void momenta(const float* RESTRICT g, float* RESTRICT m, int length) const {
    for (int i = 0; i < length; ++i) m[i] = momentum(g[i], m[i]);
  }
  void squares(const float* RESTRICT g, float* RESTRICT v, int length) const {
    for (int i = 0; i < length; ++i) v[i] = square(g[i], v[i]);
  }
};

#include "choose.h"

#include "move.h"

// ---- The entry points: runs of at most RUN entries, one after the other.

inline int run_length(int64_t done, int64_t length) { return length - done < RUN ? int(length - done) : RUN; }

// Collects what a pass over the moments finds, and brings it to the band, which threads may share, in larger pieces.
class Found {
 public:
  Found(Bracket bracket, Band& band) : bracket_(bracket), band_(band) {}
  ~Found() {
    flush();
    band_.above.fetch_add(above_, std::memory_order_relaxed);
  }

  // Counts what a run has above the bracket and inside it. Returns memory for the keys of the latter.
  Key* add(int above, int inside) {
    if (inside_ + inside > SIZE) flush();
    above_ += above;
    inside_ += inside;
    return keys_ + inside_ - inside;
  }

 private:
  static constexpr int SIZE = 2 * RUN;

  void flush() {
    const int64_t first = band_.inside.fetch_add(inside_, std::memory_order_relaxed);
    if (bracket_.low < bracket_.high && first + inside_ <= band_.capacity) {
      memcpy(band_.keys + first, keys_, inside_ * sizeof(Key));
    }
    inside_ = 0;
  }

  const Bracket bracket_;
  Band& band_;
  Key keys_[SIZE];
  int inside_ = 0;
  int64_t above_ = 0;
};

// Takes room in the journal for what a run has above the bracket and inside it. Returns where former parameters are
// kept, or null if there is no room.
uint32_t* enter(Journal& journal, int above, int inside, int length) {
  uint32_t* former = journal.former + journal.moved;
  const Candidate* last = journal.end - journal.candidates - inside;
  const int64_t room = reinterpret_cast<const char*>(last) - reinterpret_cast<const char*>(former);
  if (room < int64_t((above + LINE) * sizeof(uint32_t))) return nullptr;  // append_values writes whole lines
  journal.moved += above;
  journal.candidates += inside;
  journal.until += length;
  return former;
}

// Calls visit(key, at, size) for each run of a tensor after `moments`, where key(i) is the key of an entry.
template <class Visit>
inline void for_runs(const Tensor& t, int64_t start, int64_t length, Visit visit) {
  float buffer_g[RUN], buffer_m[RUN], buffer_v[RUN];
  const Decay decay(t);
  const bool need_v = t.score == MOMENTUM_OVER_RMS, need_g = t.score == GRADIENT || t.codebooks;
  with_ranking(t, [&](auto rank) {
    for (int64_t done = 0; done < length; done += RUN) {
      const int64_t at = start + done;
      const int size = run_length(done, length);
      float* m = load(t, EXP_AVG, at, size, buffer_m);
      float* v = need_v ? load(t, EXP_AVG_SQ, at, size, buffer_v) : m;
      const float* g = need_g ? load_grad(t, at, size, buffer_g) : m;
      if (t.codebooks) {
        if (need_v) decay.squares(g, v, size);
        decay.momenta(g, m, size);
      }
      visit([=](int i) { return rank(g[i], m[i], v[i], at + i); }, at, size);
    }
  });
}

// What `moments` does without a journal where these are in 8 bits.
void collect(const Tensor& t, int64_t start, int64_t length, Bracket bracket, Band& band) {
  uint16_t positions[RUN + LINE];
  Found found(bracket, band);
  Chosen above, inside;
  for_runs(t, start, length, [&](auto key, int64_t, int size) {
    if (bracket.low == 0 && bracket.high == HIGHEST) {
      Key* keys = found.add(0, size);
      for (int i = 0; i < size; ++i) keys[i] = key(i);
      return;
    }
    choose(key, size, next_key(bracket.high), above, &inside, bracket.low);
    const int count = inside.positions(positions);
    Key* keys = found.add(above.count(), count);
    for (int i = 0; i < count; ++i) keys[i] = key(positions[i]);
  });
}

void moments(const Tensor& t, int64_t start, int64_t length, Bracket bracket, Band& band, Journal* journal) {
  if (t.codebooks) return collect(t, start, length, bracket, band);
  float buffer_g[RUN], buffer_m[RUN], buffer_v[RUN];
  uint16_t positions[RUN + LINE];
  Found found(bracket, band);
  Mover mover(t);
  Chosen inside;
  with_ranking(t, [&](auto rank) {
    const Decay decay(t);
    for (int64_t done = 0; done < length; done += RUN) {
      const int64_t at = start + done;
      const int size = run_length(done, length);
      const float* g = load_grad(t, at, size, buffer_g);
      float* m = load(t, EXP_AVG, at, size, buffer_m);
      float* v = load(t, EXP_AVG_SQ, at, size, buffer_v);
      const auto update = [=](int i) {
        const float new_m = decay.momentum(g[i], m[i]), new_v = decay.square(g[i], v[i]);
        m[i] = new_m;
        v[i] = new_v;
        return rank(g[i], new_m, new_v, at + i);
      };
      if (bracket.low == 0 && bracket.high == HIGHEST) {
        Key* keys = found.add(0, size);
        // Where that many entries move, most lines have one. They are moved as soon as the keys of the block are known.
        if (t.k * 32 >= t.n) prefetch(t, PARAM, at, size);
        INDEPENDENT for (int i = 0; i < size; ++i) keys[i] = update(i);
        store(t, EXP_AVG, at, size, m);
        store(t, EXP_AVG_SQ, at, size, v);
        continue;
      }
      Chosen& above = mover.next();
      choose(update, size, next_key(bracket.high), above, &inside, bracket.low);
      store(t, EXP_AVG, at, size, m);
      store(t, EXP_AVG_SQ, at, size, v);
      const int count_above = above.count(), count = inside.positions(positions);
      Key* keys = found.add(count_above, count);
      for (int i = 0; i < count; ++i) {
        const int p = positions[i];
        keys[i] = rank(g[p], m[p], v[p], at + p);
      }
      uint32_t* former = journal && journal->until == done ? enter(*journal, count_above, count, size) : nullptr;
      if (!former) continue;
      Candidate* next = journal->end - (journal->candidates - count);
      for (int i = 0; i < count; ++i) {
        const int p = positions[i];
        *--next = {keys[i], m[p], v[p], uint32_t(done + p)};
      }
      for (int operand = GRAD; operand <= EXP_AVG_SQ; ++operand) prefetch(t, operand, at + size, AHEAD);
      above.start = at;
      mover.take(former);
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

int64_t count_from(const Key* keys, int64_t count, Key low) {
  int64_t total = 0;
  for (int64_t done = 0; done < count; done += 1 << 16) {
    const int size = count - done < 1 << 16 ? int(count - done) : 1 << 16;
    int32_t found = 0;
    for (int i = 0; i < size; ++i) found += keys[done + i] >= low;
    total += found;
  }
  return total;
}

int64_t keep(Key* keys, int64_t count, Bracket bracket) {
  uint32_t line[LINE];
  uint32_t* end = reinterpret_cast<uint32_t*>(keys);
  int64_t done = 0;
  for (; done + LINE <= count; done += LINE) {  // what is appended, and up to a line more, lies behind what was read
    memcpy(line, keys + done, sizeof(line));
    const Mask mask = mask_of(keys + done, bracket.low) & Mask(~mask_of(keys + done, next_key(bracket.high)));
    end = append_values(mask, line, end);
  }
  int64_t kept = end - reinterpret_cast<uint32_t*>(keys);
  for (; done < count; ++done) {
    const Key key = keys[done];
    keys[kept] = key;
    kept += key >= bracket.low && key <= bracket.high;
  }
  return kept;
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
  uint16_t positions[RUN + LINE];
  for_runs(t, start, length, [&](auto key, int64_t, int size) {
    choose(key, size, bracket.low, chosen);
    const int count = chosen.positions(positions);
    for (int i = 0; i < count; ++i) {
      const Key found = key(positions[i]);
      ++bins[found > bracket.high ? above : (found - bracket.low) >> shift];
    }
  });
}

// Chooses, of a run, those with a key > above, and the first `ties` of those with key == above. Takes these off `ties`.
template <class KeyOf>
inline void choose_moving(KeyOf key, int size, Key above, int64_t& ties, Chosen& chosen) {
  if (ties <= 0) return choose(key, size, next_key(above), chosen);
  Chosen equal;
  choose(key, size, next_key(above), chosen, &equal, above);
  equal.for_lines([&](int line, Mask mask) {
    for (; mask && ties > 0; --ties, mask &= Mask(mask - 1)) chosen.add(line, mask & Mask(-mask));
  });
}

// What `apply` does where the moments are in 8 bits: this is the last loop over them, and writes them.
template <class T>
void apply_and_write(const Tensor& t, int64_t start, int64_t length, Key above, int64_t ties) {
  float buffer_g[RUN], m[RUN], v[RUN];
  uint32_t former[LINE];
  T* p = static_cast<T*>(t.data[PARAM]);
  const Decay decay(t);
  const Movement movement(t);
  Chosen chosen;
  with_ranking(t, [&](auto rank) {
    for (int64_t done = 0; done < length; done += RUN) {
      const int64_t at = start + done;
      const int size = run_length(done, length);
      shrink_all(t, at, size);
      const float* g = load_grad(t, at, size, buffer_g);
      load(t, EXP_AVG, at, size, m);
      load(t, EXP_AVG_SQ, at, size, v);
      // To round a run takes so long that the processor itself does not fetch the next.
      for (int operand = PARAM; operand <= EXP_AVG_SQ; ++operand) prefetch(t, operand, at + size, RUN);
      decay.momenta(g, m, size);
      decay.squares(g, v, size);
      choose_moving([&](int i) { return rank(g[i], m[i], v[i], at + i); }, size, above, ties, chosen);
      store(t, EXP_AVG, at, size, m);
      store(t, EXP_AVG_SQ, at, size, v);
      chosen.for_lines([&](int line, Mask mask) {
        const int first = line * LINE;
        move_line(movement, at + first, mask, p + at + first, m + first, v + first, former);
      });
    }
  });
}

void apply(const Tensor& t, int64_t start, int64_t length, Key above, int64_t ties) {
  if (ties >= length) {  // all of them: nothing is to be counted
    --above;
    ties = 0;
  }
  if (t.codebooks) {
    return with_type_of_param(t, [&](auto zero) { apply_and_write<decltype(zero)>(t, start, length, above, ties); });
  }
  Mover mover(t);
  for_runs(t, start, length, [&](auto key, int64_t at, int size) {
    shrink_all(t, at, size);
    Chosen& chosen = mover.next();
    choose_moving(key, size, above, ties, chosen);
    chosen.start = at;
    mover.take();
  });
}

// Candidates that move.
struct Passed {
  float exp_avg[RUN], exp_avg_sq[RUN];
  uint32_t position[RUN];
  int count = 0;
};

template <class T>
void move_passed(const Movement& movement, T* data, int64_t start, const Passed& passed) {
  float x[RUN];
  for (int i = 0; i < passed.count; ++i) x[i] = widen(data[passed.position[i]]);
  for (int i = 0; i < passed.count; ++i) x[i] = movement.moved(x[i], passed.exp_avg[i], passed.exp_avg_sq[i]);
  for (int i = 0; movement.random && i < passed.count; ++i) x[i] = movement.rounded(x[i], start + passed.position[i]);
  for (int i = 0; i < passed.count; ++i) data[passed.position[i]] = narrow<T>(x[i]);
}

template <class T>
int64_t apply_listed_as(const Tensor& t, int64_t start, const Journal& journal, Key above, int64_t ties) {
  T* data = static_cast<T*>(t.data[PARAM]) + start;
  const Movement movement(t);
  Passed runs[2];  // the memory of one arrives while the other is worked on
  int turn = 0;
  for (int64_t done = 0; done < journal.candidates; done += RUN) {
    const Candidate* list = journal.end - 1 - done;  // they follow each other downwards
    Passed& passed = runs[turn];
    passed.count = 0;
    for (int i = 0; i < run_length(done, journal.candidates); ++i) {
      passed.exp_avg[passed.count] = list[-i].exp_avg;
      passed.exp_avg_sq[passed.count] = list[-i].exp_avg_sq;
      passed.position[passed.count] = list[-i].position;
      const bool tie = list[-i].key == above;
      passed.count += list[-i].key > above || (tie && ties > 0);
      ties -= tie;
    }
    for (int i = 0; i < passed.count; ++i) PREFETCH(data + passed.position[i]);
    turn = 1 - turn;
    move_passed(movement, data, start, runs[turn]);
    runs[turn].count = 0;
  }
  move_passed(movement, data, start, runs[1 - turn]);
  return ties > 0 ? ties : 0;
}

int64_t apply_listed(const Tensor& t, int64_t start, const Journal& journal, Key above, int64_t ties) {
  return with_type_of_param(t,
                            [&](auto zero) { return apply_listed_as<decltype(zero)>(t, start, journal, above, ties); });
}

template <class T>
void undo_as(const Tensor& t, int64_t start, const Journal& journal, Key high) {
  T* data = static_cast<T*>(t.data[PARAM]);
  const uint32_t* former = journal.former;
  Chosen chosen;
  uint16_t positions[RUN + LINE];
  for_runs(t, start, journal.until, [&](auto key, int64_t at, int size) {
    choose(key, size, next_key(high), chosen);
    const int count = chosen.positions(positions);
    for (int i = 0; i < count; ++i) data[at + positions[i]] = from_raw<T>(*former++);
  });
}

void undo(const Tensor& t, int64_t start, const Journal& journal, Key high) {
  with_type_of_param(t, [&](auto zero) { undo_as<decltype(zero)>(t, start, journal, high); });
}

void everything(const Tensor& t, int64_t start, int64_t length) {
  float buffer_g[RUN], buffer_m[RUN], buffer_v[RUN], buffer_p[RUN];
  const Decay decay(t);
  const Movement movement(t);
  for (int64_t done = 0; done < length; done += RUN) {
    const int64_t at = start + done;
    const int size = run_length(done, length);
    shrink_all(t, at, size);
    const float* g = load_grad(t, at, size, buffer_g);
    float* m = load(t, EXP_AVG, at, size, buffer_m);
    float* v = load(t, EXP_AVG_SQ, at, size, buffer_v);
    float* p = load(t, PARAM, at, size, buffer_p);
    INDEPENDENT for (int i = 0; i < size; ++i) {
      m[i] = decay.momentum(g[i], m[i]);
      v[i] = decay.square(g[i], v[i]);
      p[i] = movement.moved(p[i], m[i], v[i]);
    }
    for (int i = 0; movement.random && i < size; ++i) p[i] = movement.rounded(p[i], at + i);
    store(t, EXP_AVG, at, size, m);
    store(t, EXP_AVG_SQ, at, size, v);
    store(t, PARAM, at, size, p);
  }
}

}  // namespace

extern const Kernel kernel = {moments, peek,         count_from, keep,       count_equal, histogram,
                              apply,   apply_listed, undo,       everything, dequantise,  quantise};

}  // namespace MOFO_ISA
}  // namespace mofo
