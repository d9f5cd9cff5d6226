// Moments in 8 bits, read and written as a whole: what a checkpoint or a look at the state needs.
#include <algorithm>

#include "block.h"
#include "step.h"
#include "threads.h"

EXPORT int mofo_cpu_dequantise(const mofo::Codebook* book, const uint8_t* codes, int64_t entries, float* values,
                               const mofo::Config* config) {
  using namespace mofo;
  Team(config->threads, config->openmp).run(ranges(entries), [&](int64_t i, int64_t) {
    const int64_t start = i * RANGE;
    config->kernel->dequantise(*book, codes, start, std::min(RANGE, entries - start), values + start);
  });
  return 0;
}

EXPORT int mofo_cpu_quantise(const mofo::Codebook* book, uint8_t* codes, int64_t entries, const float* values,
                             const mofo::Config* config) {
  using namespace mofo;
  Team(config->threads, config->openmp).run(ranges(entries), [&](int64_t i, int64_t) {
    const int64_t start = i * RANGE;
    config->kernel->quantise(*book, codes, start, std::min(RANGE, entries - start), values + start);
  });
  return 0;
}
