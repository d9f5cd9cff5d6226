// The C interface of the library, and how a step is computed as Python hands it over.
#pragma once

#include <cstdint>

#include "kernel.h"
#include "threads.h"

#if defined(_WIN32)
#define EXPORT extern "C" __declspec(dllexport)
#else
#define EXPORT extern "C" __attribute__((visibility("default")))
#endif

namespace mofo {

// How a step is computed; none of it changes a result. Fields of 8 bytes, in the order in which library.py packs them.
struct Config {
  int64_t threads;
  GompParallel openmp;  // null: threads of our own
  const Kernel* kernel;
  int64_t small;        // blocks of at most so many entries are not sampled
  int64_t sample_rate;  // one line in so many is sampled,
  int64_t max_lines;    // but no more than these
  int64_t band_share;   // of a block that is sampled, one entry in so many fits into the memory for the band
  int64_t journal_share;  // of the bytes of the largest block, one in so many is memory for journals
  double spread;        // half-width of the bracket, in standard deviations
};

}  // namespace mofo

// The kernel of an instruction set, or null where this library or this processor does not have it.
EXPORT const void* mofo_cpu_kernel(const char* name);

// Sizes of the structures, for library.py to check that it packs what the library reads.
EXPORT int64_t mofo_cpu_sizes();

// One step of all tensors. Returns 0; or, with nothing written, 1 if tensors may overlap and 2 for want of memory.
EXPORT int mofo_cpu_step(const mofo::Tensor* tensors, int64_t count, const mofo::Config* settings);

// The phases of a step for a tensor of whose blocks other processes have a part (distributed/step.py): n is what is here of each
// block, and k does not count. All return 0; or, with nothing written, 2 for want of memory.

// Update the moments of all entries. Of each block count the keys above high[block] and those from low[block] on,
// counts[block][2], and put the latter into band[block][capacity] as far as they fit, in any order.
EXPORT int mofo_cpu_moments(const mofo::Tensor* tensor, const mofo::Config* settings, const int64_t* low,
                            const int64_t* high, int64_t* counts, int32_t* band, int64_t capacity);

// Add to counts[block][i], i < bins, the number of keys from low[block] to high[block] with (key - low) >> shift == i,
// and to counts[block][bins] the number of those above.
EXPORT int mofo_cpu_count(const mofo::Tensor* tensor, const mofo::Config* settings, const int64_t* low,
                          const int64_t* high, const int64_t* shift, int64_t* counts, int64_t bins);

// The same of keys that mofo_cpu_moments has collected, and all counted there as above.
EXPORT int mofo_cpu_count_collected(int64_t blocks, const int64_t* collected, const int32_t* band, int64_t capacity,
                                    const int64_t* low, const int64_t* high, const int64_t* shift, int64_t* counts,
                                    int64_t bins);

// Update the parameters with a key > keys[block], and the first ties[block] of those with key == keys[block].
EXPORT int mofo_cpu_move(const mofo::Tensor* tensor, const mofo::Config* settings, const int64_t* keys,
                         const int64_t* ties);
