// Moments in 8 bits, read and written as a whole: what a checkpoint or a look at the state needs.
#include <algorithm>

#include "block.h"
#include "step.h"
#include "threads.h"

namespace {

// Calls visit(start, length) for every range of the entries, on all threads.
template <class Visit>
void for_ranges(const mofo::Config& s, int64_t entries, const Visit& visit) {
  mofo::Team(s.threads, s.openmp).run(mofo::ranges(entries), [&](int64_t i, int64_t) {
    visit(i * mofo::RANGE, std::min(mofo::RANGE, entries - i * mofo::RANGE));
  });
}

}  // namespace

EXPORT int mofo_cpu_dequantise(const mofo::Codebook* book, const uint8_t* codes, int64_t entries, float* values,
                               const mofo::Config* config) {
  for_ranges(*config, entries, [&](int64_t start, int64_t length) {
    config->kernel->dequantise(*book, codes, start, length, values + start);
  });
  return 0;
}

EXPORT int mofo_cpu_quantise(const mofo::Codebook* book, uint8_t* codes, int64_t entries, const float* values,
                             const mofo::Config* config) {
  for_ranges(*config, entries, [&](int64_t start, int64_t length) {
    config->kernel->quantise(*book, codes, start, length, values + start);
  });
  return 0;
}
