// One step of one block on a CPU: what its scratch memory is, and the call.
#pragma once

#include "step.h"
#include "threads.h"

namespace mofo {

constexpr int64_t RANGE = 1 << 16;  // entries of a large block, or of codes, that a thread takes at a time

inline int64_t ranges(int64_t n) { return (n + RANGE - 1) / RANGE; }

// Scratch memory of a team: of one thread, or of all while they share a block.
struct Scratch {
  Key* keys;          // for the sample, then for the band
  int64_t* numbers;   // bins for each thread, or a number for each range
  Journal* journals;  // one for each range
  Candidate* memory;  // memory of the journals, an equal part for each thread
  int64_t capacity;   // of a thread's part
  Journal* unused;    // what each thread has left of its part
};

// The number of keys for which a block needs scratch memory: for the sample, then for its band.
int64_t keys_needed(const Config& s, const Tensor& t);

// Makes a step of a block, shared out between the threads of a team. Small blocks fetch what comes `next`.
void step_block(const Config& s, const Team& team, const Tensor& t, int64_t block, const Scratch& scratch, Next next);

}  // namespace mofo
