// One step of MoFO on a CPU, for all tensors in one call.
//
// In each block of n entries the k with the highest score move. A score is compared as an integer, its key
// (kernel.h). To find the k-th highest key without sorting the block, and in little more than one pass over it:
//
// 1. Sample. A few hundred to a few thousand cache lines, spread over the block, are updated in scratch memory. Their
// keys tell between which two keys, the bracket, the k-th highest probably lies.
// 2. Moments. One pass reads g, m and v, writes m and v, counts the keys above the bracket, and collects those
// inside, the band.
// 3. Select. The counts prove whether the k-th highest key is in the band. If so, it is found there. If not, or if
// the band outgrew its memory, it is found by histograms of the keys of the whole block, each 2048 times finer than
// the one before: up to three more passes that read the moments only.
// 4. Apply. A pass reads m again and updates the parameters whose key is above the threshold, and the first of those
// equal to it: the only ones for which a denominator is computed and whose cache lines are touched.
//
// A small block takes the same way with everything in its band. Where every entry moves, one pass does it all.
//
// A block is a task for one thread, or several small ones are; the entries of a large one are shared out between all
// threads, stage by stage. Neither that nor the sample can change a result: all they decide is where keys are looked
// for.
#include <algorithm>
#include <memory>
#include <new>
#include <numeric>
#include <string_view>
#include <vector>

#include "processor.h"
#include "select.h"
#include "step.h"
#include "threads.h"

namespace mofo {
namespace {

constexpr int64_t LEAST_LINES = 64;        // sampled of a block
constexpr int64_t RANGE = 1 << 16;         // entries of a large block that a thread takes at a time
constexpr int64_t TASK = 1 << 16;          // blocks are put together to tasks of at least so many entries
constexpr int64_t LEAST_SHARED = 1 << 17;  // entries below which sharing a block out costs more than it gains

// ---- One block.

// Scratch memory of a thread, or of the team while it shares a block.
struct Scratch {
  Key* keys;
  int64_t* bins;
  Candidates candidates;
};

int64_t lines_sampled(const Settings& s, int64_t n) {
  if (n <= s.small) return 0;
  return std::min({n / LINE, std::max(n / LINE / s.sample_rate, LEAST_LINES), s.max_lines});
}

// How many keys the band of a block may have.
int64_t band_capacity(const Settings& s, const Tensor& t) {
  return lines_sampled(s, t.n) ? std::max(t.n / s.band_share, std::min(t.n, s.small)) : t.n;
}

// Keys that the scratch memory of a block must hold: its band, or first the sample.
int64_t keys_needed(const Settings& s, const Tensor& t) {
  return t.k < t.n ? std::max(band_capacity(s, t), lines_sampled(s, t.n) * LINE) : 0;
}

int64_t ranges(int64_t n) { return (n + RANGE - 1) / RANGE; }

// Calls visit(start, length, range) for every range of the block.
template <class Visit>
void for_ranges(const Team& team, const Tensor& t, int64_t block, const Visit& visit) {
  team.run(ranges(t.n), [&](int64_t i, int64_t) {
    visit(block * t.n + i * RANGE, std::min(RANGE, t.n - i * RANGE), i);
  });
}

Bracket sampled_bracket(const Settings& s, const Team& team, const Tensor& t, int64_t block, Key* keys) {
  const int64_t lines = lines_sampled(s, t.n);
  if (!lines) return {0, HIGHEST};
  // One line from each stratum, anywhere in it: an even spacing could run along with rows.
  const int64_t stratum = t.n / lines;
  constexpr int64_t together = 16;
  team.run((lines + together - 1) / together, [&](int64_t i, int64_t) {
    int64_t starts[together];
    const int64_t first = i * together, count = std::min(together, lines - first);
    for (int64_t line = first; line < first + count; ++line) {
      const uint64_t hash = (uint64_t(line) + 1) * 0x9E3779B97F4A7C15u >> 32;
      starts[line - first] = block * t.n + line * stratum + int64_t(hash % uint64_t(stratum - LINE + 1)) / LINE * LINE;
    }
    s.kernel->peek(t, starts, int(count), keys + first * LINE);
  });
  return guess_bracket(keys, lines, t.n, t.k, s.spread);
}

// Sets bins[i], i < size, to the number of keys in the bracket with (key - low) >> shift == i, and bins[size] to that of
// the keys above. Each thread needs memory for so many.
void count_keys(const Settings& s, const Team& team, const Tensor& t, int64_t block, Bracket bracket, int shift,
                int64_t size, int64_t* bins) {
  std::fill(bins, bins + (size + 1) * team.threads(), 0);
  team.run(ranges(t.n), [&](int64_t i, int64_t worker) {
    s.kernel->histogram(t, block * t.n + i * RANGE, std::min(RANGE, t.n - i * RANGE), bracket, shift, size,
                        bins + worker * (size + 1));
  });
  for (int64_t worker = 1; worker < team.threads(); ++worker) {
    for (int64_t bin = 0; bin <= size; ++bin) bins[bin] += bins[worker * (size + 1) + bin];
  }
}

// The threshold from the whole block, where the band did not have it.
Threshold search(const Settings& s, const Team& team, const Tensor& t, int64_t block, Bracket bracket, int64_t rank,
                 int64_t* bins) {
  int64_t inside = 0;
  while (bracket.low < bracket.high) {
    const int shift = bin_shift(bracket, BINS);
    count_keys(s, team, t, block, bracket, shift, BINS, bins);
    inside = enter_bin(bins, shift, &bracket, &rank);
  }
  return {bracket.low, rank, inside};
}

Threshold find_threshold(const Settings& s, const Team& team, const Tensor& t, int64_t block, Bracket bracket,
                         const Band& band, int64_t* bins) {
  const int64_t above = band.above, inside = band.inside;
  if (t.k <= above) return search(s, team, t, block, {bracket.high + 1, HIGHEST}, t.k, bins);
  if (t.k > above + inside) return search(s, team, t, block, {0, bracket.low - 1}, t.k - above - inside, bins);
  if (bracket.low == bracket.high) return {bracket.low, t.k - above, inside};
  if (inside > band.capacity) return search(s, team, t, block, bracket, t.k - above, bins);
  return select_key(band.keys, inside, t.k - above);
}

// Updates the parameters of a block with a key > above, and the first `ties` of those with key == above. There is
// memory for a number for each range.
void apply(const Settings& s, const Team& team, const Tensor& t, int64_t block, Key above, int64_t ties,
           int64_t* before) {
  if (ties < t.n) {  // how many of those equal to it the ranges before one have
    for_ranges(team, t, block, [&](int64_t start, int64_t length, int64_t range) {
      before[range] = s.kernel->count_equal(t, start, length, above);
    });
    std::exclusive_scan(before, before + ranges(t.n), before, int64_t(0));
  }
  for_ranges(team, t, block, [&](int64_t start, int64_t length, int64_t range) {
    s.kernel->apply(t, start, length, above, ties < t.n ? std::max<int64_t>(ties - before[range], 0) : length);
  });
}

// A block that a thread has for itself.
void step_alone(const Settings& s, const Tensor& t, int64_t block, Scratch scratch) {
  const Team alone(1, nullptr);
  const int64_t start = block * t.n;
  if (t.k == t.n) return s.kernel->everything(t, start, t.n);
  const Bracket bracket = sampled_bracket(s, alone, t, block, scratch.keys);
  Band band{scratch.keys, band_capacity(s, t)};
  Candidates candidates = scratch.candidates;
  const bool listed = lines_sampled(s, t.n) && !t.layout && !t.decay_all && t.n <= UINT32_MAX;
  s.kernel->moments(t, start, t.n, bracket, band, listed ? &candidates : nullptr);
  const Threshold threshold = find_threshold(s, alone, t, block, bracket, band, scratch.bins);
  int64_t ties = threshold.key == INFINITE ? t.n : threshold.selected;
  if (threshold.key < bracket.low) candidates.count = candidates.until = 0;  // it was not told to keep all that move
  ties = s.kernel->apply_listed(t, start, candidates, threshold.key, ties);
  s.kernel->apply(t, start + candidates.until, t.n - candidates.until, threshold.key, ties);
}

// A block that all threads share.
void step_shared(const Settings& s, const Team& team, const Tensor& t, int64_t block, Scratch scratch) {
  if (t.k == t.n) {
    for_ranges(team, t, block, [&](int64_t start, int64_t length, int64_t) { s.kernel->everything(t, start, length); });
    return;
  }
  const Bracket bracket = sampled_bracket(s, team, t, block, scratch.keys);
  Band band{scratch.keys, band_capacity(s, t)};
  for_ranges(team, t, block, [&](int64_t start, int64_t length, int64_t) {
    s.kernel->moments(t, start, length, bracket, band, nullptr);
  });
  const Threshold threshold = find_threshold(s, team, t, block, bracket, band, scratch.bins);
  const bool all_ties = threshold.key == INFINITE || threshold.selected == threshold.equal;
  apply(s, team, t, block, threshold.key, all_ties ? t.n : threshold.selected, scratch.bins);
}

// ---- All blocks.

// Consecutive blocks of a tensor.
struct Task {
  const Tensor* tensor;
  int64_t first, count;

  int64_t entries() const { return tensor->n * count; }
};

struct Plan {
  std::vector<Task> shared;  // one block each
  std::vector<Task> alone;
};

Plan make_plan(const Settings& s, const Tensor* tensors, int64_t count) {
  int64_t total = 0;
  for (int64_t i = 0; i < count; ++i) total += tensors[i].n * tensors[i].blocks;
  const int64_t least = std::max(LEAST_SHARED, total / (16 * s.threads));
  Plan plan;
  for (int64_t i = 0; i < count; ++i) {
    const Tensor& t = tensors[i];
    if (t.n == 0) continue;
    const bool share = s.threads > 1 && t.n > least;
    const int64_t together = share ? 1 : std::max<int64_t>(TASK / t.n, 1);
    for (int64_t first = 0; first < t.blocks; first += together) {
      (share ? plan.shared : plan.alone).push_back({&t, first, std::min(together, t.blocks - first)});
    }
  }
  // The largest first, so that no thread begins one when the others end.
  std::stable_sort(plan.alone.begin(), plan.alone.end(),
                   [](const Task& a, const Task& b) { return a.entries() > b.entries(); });
  return plan;
}

template <class T>
std::unique_ptr<T[]> allocate(int64_t entries) {
  return std::unique_ptr<T[]>(new T[size_t(entries)]);  // not initialised: what is not used is not touched
}

// Bytes from the first to behind the last that an operand may occupy.
struct Extent {
  uintptr_t begin, end;
  bool written;
};

Extent extent(const Tensor& t, int operand) {
  const int64_t itemsize = operand <= GRAD && t.dtype[operand] != FLOAT32 ? 2 : 4;
  int64_t entries = t.n * t.blocks;
  if (t.layout && entries) {
    const int64_t dims = t.layout[0];
    entries = 1;
    for (int64_t d = 0; d < dims; ++d) entries += (t.layout[1 + d] - 1) * t.layout[1 + dims * (1 + operand) + d];
  }
  const uintptr_t begin = reinterpret_cast<uintptr_t>(t.data[operand]);
  return {begin, begin + uintptr_t(entries * itemsize), operand != GRAD};
}

// Whether memory that is written may be memory of another operand too.
bool may_overlap(const Tensor* tensors, int64_t count) {
  std::vector<Extent> extents;
  for (int64_t i = 0; i < count; ++i) {
    for (int operand = PARAM; operand <= EXP_AVG_SQ; ++operand) {
      const Extent e = extent(tensors[i], operand);
      if (e.begin < e.end) extents.push_back(e);
    }
  }
  std::sort(extents.begin(), extents.end(), [](const Extent& a, const Extent& b) { return a.begin < b.begin; });
  uintptr_t written = 0, used = 0;
  for (const Extent& e : extents) {
    if (e.begin < (e.written ? used : written)) return true;
    used = std::max(used, e.end);
    if (e.written) written = std::max(written, e.end);
  }
  return false;
}

void step(const Settings& s, const Tensor* tensors, int64_t count) {
  const Plan plan = make_plan(s, tensors, count);
  int64_t shared_keys = 0, shared_bins = 0, keys = 0, largest = 0;
  for (const Task& task : plan.shared) {
    shared_keys = std::max(shared_keys, keys_needed(s, *task.tensor));
    shared_bins = std::max({shared_bins, (BINS + 1) * s.threads, ranges(task.tensor->n)});
    largest = std::max(largest, task.tensor->n);
  }
  for (const Task& task : plan.alone) {
    keys = std::max(keys, keys_needed(s, *task.tensor));
    largest = std::max(largest, task.tensor->n);
  }
  const int64_t workers = std::min<int64_t>(s.threads, int64_t(plan.alone.size()));
  const int64_t listed = workers ? largest / s.list_share / workers : 0;
  // All memory is taken here: once the first tensor is written nothing can fail.
  const auto key_memory = allocate<Key>(std::max(shared_keys, keys * workers));
  const auto bin_memory = allocate<int64_t>(std::max(shared_bins, (BINS + 1) * workers));
  const auto candidate_memory = allocate<Candidate>(listed * workers);

  const Team team(s.threads, s.openmp);
  for (const Task& task : plan.shared) {
    step_shared(s, team, *task.tensor, task.first, {key_memory.get(), bin_memory.get(), {}});
  }
  team.run(int64_t(plan.alone.size()), [&](int64_t i, int64_t worker) {
    const Scratch scratch{key_memory.get() + worker * keys, bin_memory.get() + worker * (BINS + 1),
                          {candidate_memory.get() + worker * listed, listed}};
    const Task& task = plan.alone[size_t(i)];
    for (int64_t block = task.first; block < task.first + task.count; ++block) {
      step_alone(s, *task.tensor, block, scratch);
    }
  });
}

}  // namespace
}  // namespace mofo

EXPORT const void* mofo_cpu_kernel(const char* name) {
  using namespace mofo;
  const std::string_view wanted(name);
#if defined(MOFO_HAVE_AVX512)
  if (wanted == "avx512" && has_avx512()) return &avx512::kernel;
#endif
#if defined(MOFO_HAVE_AVX2)
  if (wanted == "avx2" && has_avx2()) return &avx2::kernel;
#endif
  return wanted == "baseline" ? &baseline::kernel : nullptr;
}

EXPORT int64_t mofo_cpu_sizes() { return int64_t(sizeof(mofo::Tensor)) << 32 | int64_t(sizeof(mofo::Settings)); }

EXPORT int mofo_cpu_step(const mofo::Tensor* tensors, int64_t count, const mofo::Settings* settings) {
  try {
    if (mofo::may_overlap(tensors, count)) return 1;
    mofo::step(*settings, tensors, count);
    return 0;
  } catch (const std::bad_alloc&) {
    return 2;
  }
}

EXPORT int mofo_cpu_moments(const mofo::Tensor* tensor, const mofo::Settings* settings, const int64_t* low,
                            const int64_t* high, int64_t* counts, int32_t* band, int64_t capacity) {
  using namespace mofo;
  const Team team(settings->threads, settings->openmp);
  for (int64_t block = 0; block < tensor->blocks; ++block) {
    const Bracket bracket{Key(low[block]), Key(high[block])};
    Band inside{band + block * capacity, capacity};
    for_ranges(team, *tensor, block, [&](int64_t start, int64_t length, int64_t) {
      settings->kernel->moments(*tensor, start, length, bracket, inside, nullptr);
    });
    counts[2 * block] = inside.above;
    counts[2 * block + 1] = inside.inside;
  }
  return 0;
}

EXPORT int mofo_cpu_count(const mofo::Tensor* tensor, const mofo::Settings* settings, const int64_t* low,
                          const int64_t* high, const int64_t* shift, int64_t* counts, int64_t bins) {
  using namespace mofo;
  const Team team(settings->threads, settings->openmp);
  try {
    const auto memory = allocate<int64_t>((bins + 1) * team.threads());
    for (int64_t block = 0; block < tensor->blocks; ++block, counts += bins + 1) {
      if (low[block] > HIGHEST) continue;
      const Bracket bracket{Key(low[block]), Key(std::min<int64_t>(high[block], HIGHEST))};
      count_keys(*settings, team, *tensor, block, bracket, int(shift[block]), bins, memory.get());
      for (int64_t bin = 0; bin <= bins; ++bin) counts[bin] += memory[size_t(bin)];
    }
    return 0;
  } catch (const std::bad_alloc&) {
    return 2;
  }
}

EXPORT int mofo_cpu_count_collected(int64_t blocks, const int64_t* collected, const int32_t* band, int64_t capacity,
                                    const int64_t* low, const int64_t* high, const int64_t* shift, int64_t* counts,
                                    int64_t bins) {
  for (int64_t block = 0; block < blocks; ++block, counts += bins + 1, band += capacity) {
    counts[bins] += collected[2 * block];
    for (int64_t i = 0; i < collected[2 * block + 1]; ++i) {
      const int64_t key = band[i];
      if (key >= low[block]) ++counts[key > high[block] ? bins : (key - low[block]) >> shift[block]];
    }
  }
  return 0;
}

EXPORT int mofo_cpu_move(const mofo::Tensor* tensor, const mofo::Settings* settings, const int64_t* keys,
                         const int64_t* ties) {
  using namespace mofo;
  const Team team(settings->threads, settings->openmp);
  try {
    const auto before = allocate<int64_t>(ranges(tensor->n));
    for (int64_t block = 0; block < tensor->blocks; ++block) {
      apply(*settings, team, *tensor, block, Key(keys[block]), ties[block], before.get());
    }
    return 0;
  } catch (const std::bad_alloc&) {
    return 2;
  }
}
