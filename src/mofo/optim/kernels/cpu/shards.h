// The C interface of the local phases of a step of shards: of tensors whose blocks are shared between processes.
#pragma once

#include "step.h"

namespace mofo {

// What a process has of a tensor besides its memory. Fields of 8 bytes, in the order in which library.py packs them.
struct Share {
  int64_t first;   // number of its first block among all shared blocks of the step
  int64_t stride;  // one entry in so many is sampled
};

class Shards;

}  // namespace mofo

// Returns memory for steps, which later steps use again; or null without memory.
EXPORT mofo::Shards* mofo_cpu_shards_new();
EXPORT void mofo_cpu_shards_delete(mofo::Shards* shards);

// The phases, in the order in which they are called. Arrays have an item for each shared block of the step. Of a tensor
// n is the number of entries of a block that are here, and k how many move if as many do everywhere. Tensors are
// contiguous.

// Takes the tensors, whose keys will be counted in `bins` bins. Returns 0; or 2 without memory: nothing later fails.
EXPORT int mofo_cpu_shards_begin(mofo::Shards* shards, const mofo::Tensor* tensors, const mofo::Share* shares,
                                 int64_t count, int64_t bins, const mofo::Config* config);

// Adds to counts[block][i], i < bins, the number of keys of a sample with (key - least) >> shift == i, and what is
// beside the bins to the nearest: the keys that entries will have once their moments are updated. Writes nothing else.
EXPORT void mofo_cpu_shards_sample(mofo::Shards* shards, int64_t least, int64_t shift, int64_t* counts);

// Updates the moments of all entries. Those with a key above high[block] move at once, and those from low[block] on are
// kept as candidates, as far as memory lasts.
EXPORT void mofo_cpu_shards_moments(mofo::Shards* shards, const int64_t* low, const int64_t* high);

// Adds to counts[block][i], i < bins, the number of keys from low[block] to high[block] with (key - low) >> shift == i,
// and to counts[block][bins] the number of those above.
EXPORT void mofo_cpu_shards_count(mofo::Shards* shards, const int64_t* low, const int64_t* high, const int64_t* shift,
                                  int64_t* counts);

// Writes the positions in the memory of their tensor of those entries of a block that have a key, in ascending order,
// at most `capacity`. Returns how many there are; or -1 if candidates alone do not tell.
EXPORT int64_t mofo_cpu_shards_tied(mofo::Shards* shards, int64_t block, int64_t key, int64_t* positions,
                                    int64_t capacity);

// Sees to it that those entries have moved that have a key > keys[block], and the first ties[block] of those with
// key == keys[block].
EXPORT void mofo_cpu_shards_move(mofo::Shards* shards, const int64_t* keys, const int64_t* ties);
