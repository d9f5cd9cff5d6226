// What library.py asks before the first step.
#include <string_view>

#include "processor.h"
#include "step.h"

EXPORT const void* mofo_cpu_kernel(const char* name) {
  using namespace mofo;
  const std::string_view wanted(name);
#if defined(MOFO_HAVE_AVX512)
  if (wanted == "avx512" && has_avx512()) return &avx512::kernel;
#endif
#if defined(MOFO_HAVE_AVX2)
  if (wanted == "avx2" && has_avx2()) return &avx2::kernel;
#endif
  return wanted == "baseline" ? &baseline::kernel : nullptr;
}

EXPORT int64_t mofo_cpu_sizes() { return int64_t(sizeof(mofo::Tensor)) << 32 | int64_t(sizeof(mofo::Config)); }
