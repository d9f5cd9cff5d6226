// The C interface of the library, and the configuration that Python passes with a step.
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

// How a step is made; nothing here changes a result. Fields of 8 bytes, in the order in which library.py packs them.
struct Config {
  int64_t threads;
  GompParallel openmp;  // null: threads of our own
  const Kernel* kernel;
  int64_t small;          // blocks of at most this many entries are not sampled
  int64_t sample_rate;    // one line in every sample_rate is sampled
  int64_t max_lines;      // at most this many lines of a block are sampled
  int64_t band_share;     // the band of a sampled block has room for its entries divided by band_share
  int64_t journal_share;  // journals have the bytes of the largest block divided by journal_share
  double spread;          // half-width of the bracket, in standard deviations
};

}  // namespace mofo

// Returns the kernel of an instruction set, or null if this library or this processor does not have it.
EXPORT const void* mofo_cpu_kernel(const char* name);

// Returns the sizes of the structures, for library.py to check that it packs what the library reads.
EXPORT int64_t mofo_cpu_sizes();

// Makes one step of all tensors. Returns 0; or, with nothing written, 1 if tensors may overlap and 2 without memory.
EXPORT int mofo_cpu_step(const mofo::Tensor* tensors, int64_t count, const mofo::Config* config);
