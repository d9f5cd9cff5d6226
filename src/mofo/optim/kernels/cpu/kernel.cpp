// The loops over runs of entries. This file is compiled once for each instruction set, as namespace MOFO_ISA, and
// left to the compiler to vectorise: loops without branches over short runs that stay in the first-level cache.
//
// The loops are in headers that are included within that namespace, in an order that matters: codes.h reads and writes
// moments in 8 bits, runs.h gives the entries of a run as float32, rank.h has the arithmetic of moments and keys,
// choose.h (with mask.h) finds which keys of a run are high enough, move.h moves chosen entries; then come the loops
// that only look (keys.h), the pass over the moments (moments.h) and those that move parameters (apply.h).
//
// The results are those of rule/update.py to the bit on every instruction set, because each operation is rounded as
// torch rounds it: products and sums apart, but for the two fused multiply-adds that torch's lerp_ and addcmul_ make.
// That needs -ffp-contract=off, and forbids -ffast-math.
//
// Only C functions and this file's own may be called here: of an inline function of the C++ library, which all
// compilations of this file would share, the linker keeps one, perhaps one that the processor at hand cannot run.
#if defined(__AVX2__)
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"  // in GCC's own header, its bug 105593
#pragma GCC diagnostic ignored "-Wuninitialized"
#endif
#include <immintrin.h>
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic pop
#endif
#endif
#if defined(_MSC_VER)
#include <intrin.h>
#endif

#include "kernel.h"

#include <float.h>
#include <math.h>
#include <string.h>

#if defined(_MSC_VER)
#define RESTRICT __restrict
#define PREFETCH(address) ((void)0)
#define INDEPENDENT __pragma(loop(ivdep))
#elif defined(__clang__)
#define RESTRICT __restrict__
#define PREFETCH(address) (__builtin_prefetch(address, 1), side_effect())
#define INDEPENDENT _Pragma("clang loop vectorize(assume_safety)")
#else
#define RESTRICT __restrict__
#define PREFETCH(address) (__builtin_prefetch(address, 1), side_effect())
#define INDEPENDENT _Pragma("GCC ivdep") _Pragma("GCC unroll 1")
#endif

namespace mofo {
namespace MOFO_ISA {
namespace {

#if !defined(_MSC_VER)
// GCC takes a function that only prefetches for one without effects, and leaves out its calls.
__attribute__((always_inline)) inline void side_effect() { __asm__ volatile(""); }
#endif

constexpr int RUN = 256;   // entries that are worked on together
constexpr int AHEAD = 64;  // of the next run: the processor itself fetches ahead only while it reads in sequence

template <class To, class From>
inline To bits(From from) {
  static_assert(sizeof(To) == sizeof(From), "the same bits");
  To to;
  memcpy(&to, &from, sizeof(to));
  return to;
}

#include "codes.h"

#include "runs.h"

#include "rank.h"

#include "choose.h"

#include "move.h"

#include "keys.h"

#include "moments.h"

#include "apply.h"
}  // namespace

extern const Kernel kernel = {moments, peek,         count_from, keep,       count_equal, histogram,
                              apply,   apply_listed, undo,       everything, dequantise,  quantise};

}  // namespace MOFO_ISA
}  // namespace mofo
