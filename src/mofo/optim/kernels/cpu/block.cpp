// One step of one block on a CPU.
//
// In each block of n entries the k with the highest score move. A score is compared as an integer, its key (kernel.h).
// To find the k-th highest key without sorting the block, and in little more than one pass over it:
//
// 1. Sample. A few hundred to a few thousand cache lines, spread over the block, are updated in scratch memory. Their
// keys bracket the k-th highest: two keys between which it probably lies.
// 2. Moments. One pass reads g, m and v and writes m and v. Entries whose key is above the bracket move at once, the
// only ones for which a denominator is computed and whose cache lines are touched; their former values are kept. Those
// inside the bracket, one or two in a hundred, are candidates: their keys are collected in the band, and what they need
// to be moved in a list.
// 3. Select. Counts of the keys above and inside prove whether the k-th highest is in the band. If so, it is found
// there, and whatever has moved had to. If not, or if the band outgrew its memory, histograms of the keys of the whole
// block find it, each 2048 times finer than the one before, in up to three more passes that read the moments only; and
// former values are restored if the bracket was wrong.
// 4. Apply. Those candidates move whose key is above the threshold, and the first of those equal to it. From where the
// memory of the second stage ended, a pass reads m again and moves the rest.
//
// A small block takes the same way with everything in its band. Where every entry moves, one pass does it all.
//
// Moments in 8 bits are rounded when they are written, so nothing may need them any more by then: the second stage only
// looks, and a pass in the fourth computes the same values again, by which it moves and which it writes. It reads the
// gradient twice, and yet less memory than with float32 moments.
#include "block.h"

#include <algorithm>
#include <numeric>

#include "select.h"

namespace mofo {
namespace {

constexpr int64_t LEAST_LINES = 64;  // that are sampled of a block

int64_t lines_sampled(const Config& s, int64_t n) {
  if (n <= s.small) return 0;
  return std::min({n / LINE, std::max(n / LINE / s.sample_rate, LEAST_LINES), s.max_lines});
}

// The number of keys for which the band of a block has room.
int64_t band_capacity(const Config& s, const Tensor& t) {
  return lines_sampled(s, t.n) ? std::max(t.n / s.band_share, std::min(t.n, s.small)) : t.n;
}

// Calls visit(start, length, range, worker) for every range of the block.
template <class Visit>
void for_ranges(const Team& team, const Tensor& t, int64_t block, const Visit& visit) {
  team.run(ranges(t.n), [&](int64_t i, int64_t worker) {
    visit(block * t.n + i * RANGE, std::min(RANGE, t.n - i * RANGE), i, worker);
  });
}

Bracket sampled_bracket(const Config& s, const Team& team, const Tensor& t, int64_t block, Key* keys) {
  const int64_t lines = lines_sampled(s, t.n);
  if (!lines) return {0, HIGHEST};
  // One line from each stratum, anywhere in it: an even spacing could run along with rows.
  const int64_t stratum = t.n / lines;
  constexpr int64_t together = 64;
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

// Sets bins[i], i < size, to the number of keys in the bracket with (key - low) >> shift == i, and bins[size] to that
// of the keys above. There is memory for size + 1 numbers for each thread.
void count_keys(const Config& s, const Team& team, const Tensor& t, int64_t block, Bracket bracket, int shift,
                int64_t size, int64_t* bins) {
  std::fill(bins, bins + (size + 1) * team.threads(), 0);
  for_ranges(team, t, block, [&](int64_t start, int64_t length, int64_t, int64_t worker) {
    s.kernel->histogram(t, start, length, bracket, shift, size, bins + worker * (size + 1));
  });
  for (int64_t worker = 1; worker < team.threads(); ++worker) {
    for (int64_t bin = 0; bin <= size; ++bin) bins[bin] += bins[worker * (size + 1) + bin];
  }
}

// Finds the threshold in the whole block, if the band did not have it.
Threshold search(const Config& s, const Team& team, const Tensor& t, int64_t block, Bracket bracket, int64_t rank,
                 int64_t* bins) {
  int64_t inside = 0;
  while (bracket.low < bracket.high) {
    const int shift = bin_shift(bracket, BINS);
    count_keys(s, team, t, block, bracket, shift, BINS, bins);
    inside = enter_bin(bins, shift, &bracket, &rank);
  }
  return {bracket.low, rank, inside};
}

Threshold find_threshold(const Config& s, const Team& team, const Tensor& t, int64_t block, Bracket bracket,
                         const Band& band, int64_t* bins) {
  const int64_t above = band.above, inside = band.inside;
  if (t.k <= above) return search(s, team, t, block, {bracket.high + 1, HIGHEST}, t.k, bins);
  if (t.k > above + inside) return search(s, team, t, block, {0, bracket.low - 1}, t.k - above - inside, bins);
  if (bracket.low == bracket.high) return {bracket.low, t.k - above, inside};
  if (inside > band.capacity) return search(s, team, t, block, bracket, t.k - above, bins);
  return select_key(*s.kernel, band.keys, inside, bracket, t.k - above);
}

// Updates the moments of a block, and with `at_once` the parameters above the bracket, with a journal for each range.
void update_moments(const Config& s, const Team& team, const Tensor& t, int64_t block, Bracket bracket, Band& band,
                    const Scratch& scratch, bool at_once) {
  for (int64_t worker = 0; worker < team.threads() && at_once; ++worker) {
    Candidate* memory = scratch.memory + worker * scratch.capacity;
    scratch.unused[worker] = {reinterpret_cast<uint32_t*>(memory), memory + scratch.capacity};
  }
  for_ranges(team, t, block, [&](int64_t start, int64_t length, int64_t range, int64_t worker) {
    if (!at_once) return s.kernel->moments(t, start, length, bracket, band, nullptr);
    Journal& unused = scratch.unused[worker];
    Journal& journal = scratch.journals[range] = unused;
    s.kernel->moments(t, start, length, bracket, band, &journal);
    unused = {journal.former + journal.moved, journal.end - journal.candidates};
  });
}

// Updates the parameters of a block with a key > above, and the first `ties` of those with key == above; with journals,
// those that have not been updated. `before` is memory for a number for each range.
void apply(const Config& s, const Team& team, const Tensor& t, int64_t block, Key above, int64_t ties, int64_t* before,
           const Journal* journals, Next next) {
  if (ties < t.n) {  // how many ties the ranges before each have
    for_ranges(team, t, block, [&](int64_t start, int64_t length, int64_t range, int64_t) {
      before[range] = s.kernel->count_equal(t, start, length, above);
    });
    std::exclusive_scan(before, before + ranges(t.n), before, int64_t(0));
  }
  for_ranges(team, t, block, [&](int64_t start, int64_t length, int64_t range, int64_t) {
    int64_t left = ties < t.n ? std::max<int64_t>(ties - before[range], 0) : length;
    int64_t done = 0;
    if (journals) {
      left = s.kernel->apply_listed(t, start, journals[range], above, left);
      done = journals[range].until;
    }
    if (done < length) s.kernel->apply(t, start + done, length - done, above, left, next);
  });
}

}  // namespace

int64_t keys_needed(const Config& s, const Tensor& t) {
  return t.k < t.n ? std::max(band_capacity(s, t), lines_sampled(s, t.n) * LINE) : 0;
}

void step_block(const Config& s, const Team& team, const Tensor& t, int64_t block, const Scratch& scratch, Next next) {
  if (t.k == t.n) {
    return for_ranges(team, t, block,
                      [&](int64_t start, int64_t length, int64_t, int64_t) { s.kernel->everything(t, start, length); });
  }
  const Bracket bracket = sampled_bracket(s, team, t, block, scratch.keys);
  Band band{scratch.keys, band_capacity(s, t)};
  bool at_once = bracket.low > 0 && !t.strides && !t.decay_all && !t.codebooks;
  update_moments(s, team, t, block, bracket, band, scratch, at_once);
  const Threshold threshold = find_threshold(s, team, t, block, bracket, band, scratch.numbers);
  if (at_once && (threshold.key < bracket.low || threshold.key > bracket.high)) {
    for_ranges(team, t, block, [&](int64_t start, int64_t, int64_t range, int64_t) {
      s.kernel->undo(t, start, scratch.journals[range], bracket.high);
    });
    at_once = false;
  }
  const bool all_ties = threshold.key == INFINITE || threshold.selected == threshold.equal;
  apply(s, team, t, block, threshold.key, all_ties ? t.n : threshold.selected, scratch.numbers,
        at_once ? scratch.journals : nullptr, next);
}

}  // namespace mofo
