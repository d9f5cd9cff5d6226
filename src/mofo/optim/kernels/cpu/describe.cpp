// What a step must know of torch's tensors, read in one call: asked one by one from Python, each answer costs more than
// the arithmetic of a small tensor. torch answers through DLPack's exchange API, a C interface that stays the same.
#include <cstdint>

#include "step.h"

namespace {

// DLTensor of dlpack.h, version 1.
struct Described {
  void* data;
  int32_t device_type, device_id;
  int32_t dims;
  uint8_t type_code, type_bits;
  uint16_t type_lanes;
  const int64_t* sizes;
  const int64_t* strides;
  uint64_t byte_offset;
};
static_assert(sizeof(void*) != 8 || sizeof(Described) == 48, "without padding, as dlpack.h has it");

}  // namespace

EXPORT int64_t mofo_cpu_describe(mofo::ItemOfList item, mofo::DescribeTensor describe, void* list, int64_t count,
                                 uint64_t* addresses, int64_t* words, int64_t capacity) {
  int64_t used = 0;
  for (int64_t i = 0; i < count; ++i) {
    Described tensor;
    void* object = item(list, intptr_t(i));
    if (!object || describe(object, &tensor)) return -1;
    addresses[i] = uint64_t(reinterpret_cast<uintptr_t>(tensor.data)) + tensor.byte_offset;
    const int64_t needed = 2 + 2 * int64_t(tensor.dims);
    if (used + needed <= capacity) {
      int64_t* word = words + used;
      *word++ = int64_t(tensor.device_type) << 32 | uint32_t(tensor.device_id);
      *word++ =
          int64_t(tensor.dims) << 32 | int64_t(tensor.type_lanes) << 16 | tensor.type_bits << 8 | tensor.type_code;
      for (int32_t dim = 0; dim < tensor.dims; ++dim) *word++ = tensor.sizes[dim];
      for (int32_t dim = 0; dim < tensor.dims; ++dim) *word++ = tensor.strides[dim];
    }
    used += needed;
  }
  return used;
}

EXPORT void mofo_cpu_read_steps(const float* const* steps, int64_t count, double* made) {
  for (int64_t i = 0; i < count; ++i) made[i] = double(*steps[i]);
}

EXPORT void mofo_cpu_count_step(float* const* steps, int64_t count) {
  for (int64_t i = 0; i < count; ++i) *steps[i] += 1;
}
