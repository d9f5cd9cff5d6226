// Consecutive entries of a block of which other processes may have others, and the local phases of a step of them.
#pragma once

#include "kernel.h"

namespace mofo {

// What a thread has left of its memory.
struct Unused {
  Key *keys, *keys_end;
  Journal journal;
};

// Consecutive entries of a block.
struct Piece {
  const Tensor* tensor;
  int64_t block;  // number among the shared blocks of the step
  int64_t start, length;
  int64_t stride;    // of the sample
  int64_t offset;    // of the start in its block
  bool alone;        // it is all of its block that is here
  int64_t ties = 0;  // entries with the k-th highest key, then how many of them move
  // What the pass over the moments found: the keys inside a bracket, the number of those above, and the journal.
  Bracket bracket{};
  Key* keys = nullptr;
  int64_t above = 0, inside = 0;
  Journal journal{};

  bool is_inside(int64_t low, int64_t high) const { return low >= bracket.low && high <= bracket.high; }

  // Calls visit(candidate) for each candidate, in ascending order of positions.
  template <class Visit>
  void for_candidates(Visit visit) const {
    for (int64_t i = 1; i <= journal.candidates; ++i) visit(journal.end[-i]);
  }

  // Adds to counts[i], i < bins, the number of keys of the sample with (key - least) >> shift == i, and what is beside
  // the bins to the nearest: the keys that entries will have once their moments are updated.
  void count_sample(const Kernel& kernel, Key least, int shift, int64_t bins, int64_t* counts) const;

  // Updates the moments. Moves what is above the bracket and keeps what is inside, as far as memory lasts.
  void update_moments(const Kernel& kernel, Bracket within, Unused& unused);

  // Adds to counts[i], i < bins, the number of keys in a bracket with (key - low) >> shift == i, and to counts[bins]
  // the number of those above.
  void count_bins(const Kernel& kernel, Bracket within, int shift, int64_t bins, int64_t* counts) const;

  // Counts the entries with a key.
  int64_t count_equal(const Kernel& kernel, Key key) const;

  // Sees to it that those have moved that have a key above `key`, and the first `ties` of those with this one.
  void move(const Kernel& kernel, Key key) const;

 private:
  int64_t first_sampled() const;
};

}  // namespace mofo
