// The exact k-th highest of a set of keys, and a guess at it from a sample.
#pragma once

#include "kernel.h"

namespace mofo {

constexpr int64_t BINS = 2048;

// The key of a rank among a set of keys.
struct Threshold {
  Key key;
  int64_t selected;  // so many of the keys equal to it are within the rank, the first ones,
  int64_t equal;     // of so many that there are
};

// How far to shift (key - low) to the right for it to be less than `bins`.
int bin_shift(Bracket bracket, int64_t bins);

// Narrow a bracket to the bin that has the key of a rank (1 is the highest), and the rank to that within the bin.
// Returns the number of keys in it.
int64_t enter_bin(const int64_t* bins, int shift, Bracket* bracket, int64_t* rank);

// The key of a rank among `count` keys. Reorders them.
Threshold select_key(Key* keys, int64_t count, int64_t rank);

// Between which keys the k-th highest of n probably lies, told from a sample of lines, each of them LINE entries that
// are neighbours. `spread` is the half-width in standard deviations.
Bracket guess_bracket(const Key* sample, int64_t lines, int64_t n, int64_t k, double spread);

}  // namespace mofo
