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
  int64_t journal_share;  // journals have the bytes of the largest block, or of 2^20 entries, divided by this
  double spread;          // half-width of the bracket, in standard deviations
};

// PyList_GetItem of Python, and dltensor_from_py_object_no_sync of DLPack's exchange API.
using ItemOfList = void* (*)(void* list, intptr_t index);
using DescribeTensor = int (*)(void* object, void* described);

}  // namespace mofo

// Returns the kernel of an instruction set, or null if this library or this processor does not have it.
EXPORT const void* mofo_cpu_kernel(const char* name);

// Returns the sizes of the structures, for library.py to check that it packs what the library reads.
EXPORT int64_t mofo_cpu_sizes();

// Makes one step of all tensors. Returns 0; or, with nothing written, 1 if tensors may overlap and 2 without memory.
EXPORT int mofo_cpu_step(const mofo::Tensor* tensors, int64_t count, const mofo::Config* config);

// Sets addresses[i] to that of the first entry of tensor i of a Python list, and puts into words[capacity], tensor
// after tensor, its device, its type and number of dimensions, its sizes and its strides. Returns how many words these
// are, of which some were not written if that is more than `capacity`; or -1 where Python has an exception. The caller
// holds Python's lock.
EXPORT int64_t mofo_cpu_describe(mofo::ItemOfList item, mofo::DescribeTensor describe, void* list, int64_t count,
                                 uint64_t* addresses, int64_t* words, int64_t capacity);

// Sets made[i] to *steps[i], the number of steps that a tensor has made.
EXPORT void mofo_cpu_read_steps(const float* const* steps, int64_t count, double* made);

// Adds 1 to each of these numbers.
EXPORT void mofo_cpu_count_step(float* const* steps, int64_t count);

// Reads the values of a moment in 8 bits, or rounds values to one. Both return 0.
EXPORT int mofo_cpu_dequantise(const mofo::Codebook* book, const uint8_t* codes, int64_t entries, float* values,
                               const mofo::Config* config);
EXPORT int mofo_cpu_quantise(const mofo::Codebook* book, uint8_t* codes, int64_t entries, const float* values,
                             const mofo::Config* config);
