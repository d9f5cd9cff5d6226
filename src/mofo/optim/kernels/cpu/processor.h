// The instruction sets that the processor and the operating system support.
#pragma once

#if defined(_MSC_VER) && defined(_M_X64)
#include <immintrin.h>
#include <intrin.h>
#endif

namespace mofo {

#if defined(_MSC_VER) && defined(_M_X64)

// EBX of CPUID leaf 7, or 0 if the operating system does not save the registers that `state` names.
inline unsigned extended_features(unsigned long long state) {
  int info[4];
  __cpuidex(info, 1, 0);
  const bool osxsave = info[2] >> 27 & 1, fma = info[2] >> 12 & 1;
  if (!osxsave || !fma || (_xgetbv(0) & state) != state) return 0;
  __cpuidex(info, 7, 0);
  return unsigned(info[1]);
}

inline bool has_avx2() {
  constexpr unsigned wanted = 1u << 5 | 1u << 8;  // AVX2, BMI2
  return (extended_features(0x06) & wanted) == wanted;
}

inline bool has_avx512() {
  constexpr unsigned wanted = 1u << 16 | 1u << 17 | 1u << 30 | 1u << 31;  // F, DQ, BW, VL
  return has_avx2() && (extended_features(0xE6) & wanted) == wanted;
}

#elif defined(__x86_64__)

inline bool has_avx2() {
  return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("bmi2");
}

inline bool has_avx512() {
  return has_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
}

#endif

}  // namespace mofo
