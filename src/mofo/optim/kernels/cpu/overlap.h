// A check whether the tensors of a step overlap in memory.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "kernel.h"

namespace mofo {

// The addresses that an operand may occupy, from its first byte to the one behind its last.
struct Extent {
  uintptr_t begin, end;
  bool written;
};

inline Extent extent(const Tensor& t, int operand) {
  const bool is_float32 = operand <= GRAD ? t.dtype[operand] == FLOAT32 : !t.codebooks;
  const int64_t itemsize = is_float32 ? 4 : operand <= GRAD ? 2 : 1;
  int64_t entries = t.n * t.blocks;
  if (t.strides && entries) {
    const int64_t dims = t.strides[0];
    entries = 1;
    for (int64_t d = 0; d < dims; ++d) entries += (t.strides[1 + d] - 1) * t.strides[1 + dims * (1 + operand) + d];
  }
  const uintptr_t begin = reinterpret_cast<uintptr_t>(t.data[operand]);
  return {begin, begin + uintptr_t(entries * itemsize), operand != GRAD};
}

// Checks whether memory that is written may be another operand's too.
inline bool may_overlap(const Tensor* tensors, int64_t count) {
  std::vector<Extent> extents;
  for (int64_t i = 0; i < count; ++i) {
    for (int operand = PARAM; operand <= EXP_AVG_SQ; ++operand) {
      const Extent e = extent(tensors[i], operand);
      if (e.begin < e.end) extents.push_back(e);
    }
  }
  std::sort(extents.begin(), extents.end(), [](const Extent& a, const Extent& b) { return a.begin < b.begin; });
  uintptr_t written = 0, used = 0;
  for (const Extent& e : extents) {
    if (e.begin < (e.written ? used : written)) return true;
    used = std::max(used, e.end);
    if (e.written) written = std::max(written, e.end);
  }
  return false;
}

}  // namespace mofo
