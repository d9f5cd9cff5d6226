#include "select.h"

#include <algorithm>
#include <cmath>
#include <functional>

namespace mofo {

int bin_shift(Bracket bracket, int64_t bins) {
  int shift = 0;
  while ((bracket.high - bracket.low) >> shift >= bins) ++shift;
  return shift;
}

int64_t enter_bin(const int64_t* bins, int shift, Bracket* bracket, int64_t* rank) {
  int bin = (bracket->high - bracket->low) >> shift;
  while (*rank > bins[bin]) *rank -= bins[bin--];
  bracket->low += Key(bin) << shift;
  const Key last = Key((int64_t(1) << shift) - 1);
  bracket->high = bracket->high - bracket->low < last ? bracket->high : bracket->low + last;
  return bins[bin];
}

namespace {

// Brackets the key of a rank among `count` keys, from a sample of them.
Bracket guess_among(const Kernel& kernel, const Key* keys, int64_t count, int64_t rank) {
  constexpr int64_t SIZE = 512;
  constexpr double SPREAD = 2.5;  // half-width, in standard deviations
  const double wanted = double(rank) / double(count) * double(SIZE);
  const double slack = SPREAD * std::sqrt(wanted + 1);
  const auto key_of = [&](double at) {
    Key sample[SIZE];
    for (int64_t i = 0; i < SIZE; ++i) sample[i] = keys[i * count / SIZE];
    return select_key(kernel, sample, SIZE, {0, HIGHEST}, int64_t(at)).key;
  };
  return {wanted + slack < double(SIZE) ? key_of(wanted + slack + 1) : 0,
          wanted - slack >= 1 ? key_of(wanted - slack) : HIGHEST};
}

}  // namespace

Threshold select_key(const Kernel& kernel, Key* keys, int64_t count, Bracket bracket, int64_t rank) {
  constexpr int64_t FEW = 32;        // that are sorted
  constexpr int64_t MANY = 1 << 12;  // of which a sample tells where to look
  int64_t above = 0, inside = count;
  // To count is so fast where the processor compares many keys at once that a histogram of few of them takes longer.
  const auto halve = [&](Key middle) {
    const int64_t upper = kernel.count_from(keys, count, middle) - above;
    if (rank <= upper) {
      bracket.low = middle;
      inside = upper;
    } else {
      bracket.high = middle - 1;
      rank -= upper;
      above += upper;
      inside -= upper;
    }
    if (inside <= count / 4) {
      count = kernel.keep(keys, count, bracket);
      above = 0;
    }
  };
  if (count > MANY) {
    const Bracket guess = guess_among(kernel, keys, count, rank);
    if (guess.low > bracket.low) halve(guess.low);
    if (guess.high >= bracket.low && guess.high < bracket.high) halve(guess.high + 1);
  }
  while (inside > FEW && bracket.low < bracket.high) {
    halve(bracket.low + (bracket.high - bracket.low) / 2 + 1);
  }
  if (bracket.low == bracket.high) return {bracket.low, rank, inside};
  count = kernel.keep(keys, count, bracket);
  std::sort(keys, keys + count, std::greater<Key>());
  const Key key = keys[rank - 1];
  const auto [first, last] = std::equal_range(keys, keys + count, key, std::greater<Key>());
  return {key, rank - (first - keys), last - first};
}

Bracket guess_bracket(const Key* sample, int64_t lines, int64_t n, int64_t k, double spread) {
  const int64_t size = lines * LINE;
  const double rank = double(k) / double(n) * double(size);
  // A histogram of the upper 16 octaves, with all that is below in its first bin.
  Key highest = 0;
  for (int64_t i = 0; i < size; ++i) highest = std::max(highest, sample[i]);
  const Bracket range{std::max<Key>(highest - (Key(16) << 23), 0), highest};
  const int shift = bin_shift(range, BINS);
  int64_t bins[BINS] = {};
  for (int64_t i = 0; i < size; ++i) ++bins[std::max<Key>(sample[i] - range.low, 0) >> shift];
  // The bin with the key of a rank (1 is the highest).
  const auto bin_of = [&](double wanted) {
    Key bin = (range.high - range.low) >> shift;
    for (int64_t seen = bins[bin]; double(seen) < wanted && bin > 0; seen += bins[bin]) --bin;
    return bin;
  };
  // How far off the rank may be. Neighbours may be of one size, so that lines and not entries are the observations; the
  // differences of successive lines leave out what differs between far parts of the block.
  const Key middle = range.low + (bin_of(rank) << shift);
  int64_t last = 0, sum_of_squares = 0;
  for (int64_t line = 0; line < lines; ++line) {
    int64_t hits = 0;
    for (int i = 0; i < LINE; ++i) hits += sample[line * LINE + i] >= middle;
    if (line) sum_of_squares += (hits - last) * (hits - last);
    last = hits;
  }
  const double slack = spread * std::sqrt(std::max(double(sum_of_squares) / 2, 1.0));

  Bracket bracket{0, HIGHEST};
  if (rank + slack <= double(size)) {
    const Key bin = bin_of(rank + slack);
    if (bin > 0) bracket.low = range.low + (bin << shift);
  }
  if (bracket.low > 0 && rank - slack >= 1) {
    bracket.high = range.low + (bin_of(rank - slack) << shift) + ((Key(1) << shift) - 1);
  }
  return bracket;
}

}  // namespace mofo
