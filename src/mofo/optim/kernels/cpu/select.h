// The exact k-th highest of a set of keys, and a guess at it from a sample.
#pragma once

#include "kernel.h"

namespace mofo {

constexpr int64_t BINS = 2048;

// The key of a rank among a set of keys.
struct Threshold {
  Key key;
  int64_t selected;  // number of the keys equal to it that are within the rank: the first ones
  int64_t equal;     // number of all keys equal to it
};

// How far to the right (key - low) is shifted to be less than `bins`.
int bin_shift(Bracket bracket, int64_t bins);

// Narrows a bracket to the bin that has the key of a rank (1 is the highest), and the rank to that within the bin.
// Returns the number of keys in the bin.
int64_t enter_bin(const int64_t* bins, int shift, Bracket* bracket, int64_t* rank);

// Returns the key of a rank among `count` keys in the bracket, which are reordered.
Threshold select_key(const Kernel& kernel, Key* keys, int64_t count, Bracket bracket, int64_t rank);

// Brackets the k-th highest of n keys, from a sample of lines, each of them LINE entries that are neighbours. `spread`
// is the half-width in standard deviations.
Bracket guess_bracket(const Key* sample, int64_t lines, int64_t n, int64_t k, double spread);

}  // namespace mofo
