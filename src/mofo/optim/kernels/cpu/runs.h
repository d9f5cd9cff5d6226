// The entries of a run as contiguous float32, whatever the type and the strides of the tensor.
// Included by kernel.cpp within its namespace.

// ---- 16-bit floats. Branch-free, so that they vectorise.

struct Half {
  uint16_t bits;
};
struct BFloat {
  uint16_t bits;
};

inline float widen(float x) { return x; }
inline float widen(BFloat x) { return bits<float>(uint32_t(x.bits) << 16); }
inline float widen(Half x) {
  const uint32_t magnitude = uint32_t(x.bits & 0x7FFF) << 13;
  // The exponent is 112 too small; multiplying by 2^112 also normalises subnormals. Infinity and NaN keep all ones.
  const float scaled = bits<float>(magnitude) * 0x1p112f;
  const uint32_t special = magnitude | 0x7F800000u;
  const uint32_t finite = bits<uint32_t>(scaled);
  return bits<float>((magnitude >= 0x0F800000u ? special : finite) | uint32_t(x.bits & 0x8000) << 16);
}

template <class T>
inline T narrow(float x);
template <>
inline float narrow<float>(float x) {
  return x;
}
template <>
inline BFloat narrow<BFloat>(float x) {
  const uint32_t wide = bits<uint32_t>(x);
  const uint32_t rounded = (wide + 0x7FFF + (wide >> 16 & 1)) >> 16;  // to nearest, ties to even
  return {uint16_t(x != x ? 0x7FC0 : rounded)};
}
template <>
inline Half narrow<Half>(float x) {
  const uint32_t wide = bits<uint32_t>(x);
  const uint32_t sign = wide >> 16 & 0x8000;
  const uint32_t magnitude = wide & 0x7FFFFFFF;
  uint32_t half;
  if (magnitude >= 0x47800000) {  // 65536 and more, infinity, NaN
    half = magnitude > 0x7F800000 ? 0x7E00 : 0x7C00;
  } else if (magnitude < 0x38800000) {  // subnormal: adding 1/2 rounds at its last place, 2^-24
    half = bits<uint32_t>(bits<float>(magnitude) + 0.5f) - 0x3F000000;
  } else {
    half = (magnitude - 0x38000000 + 0xFFF + (magnitude >> 13 & 1)) >> 13;  // to nearest, ties to even
  }
  return {uint16_t(sign | half)};
}

// The bits, unchanged also of a NaN.
inline uint32_t to_raw(float x) { return bits<uint32_t>(x); }
inline uint32_t to_raw(BFloat x) { return x.bits; }
inline uint32_t to_raw(Half x) { return x.bits; }

template <class T>
inline T from_raw(uint32_t raw) {
  return {uint16_t(raw)};
}
template <>
inline float from_raw<float>(uint32_t raw) {
  return bits<float>(raw);
}

// Calls call(zero), with a zero of the type of the tensor's parameter.
template <class Call>
inline auto with_type_of_param(const Tensor& t, Call call) {
  if (t.dtype[PARAM] == BFLOAT16) return call(BFloat{});
  if (t.dtype[PARAM] == FLOAT16) return call(Half{});
  return call(0.0f);
}

// ---- Reading and writing runs.

// Computes where the entries of a run lie, in entries from the start of an operand of any strides.
void find_offsets(const Tensor& t, int operand, int64_t start, int length, int64_t* RESTRICT offsets) {
  const int64_t dims = t.strides[0];
  const int64_t* sizes = t.strides + 1;
  const int64_t* strides = sizes + dims * (1 + operand);
  int64_t index[64];
  int64_t offset = 0;
  for (int64_t d = dims - 1; d >= 0; --d) {
    index[d] = start % sizes[d];
    start /= sizes[d];
    offset += index[d] * strides[d];
  }
  for (int i = 0; i < length; ++i) {
    offsets[i] = offset;
    for (int64_t d = dims - 1; d >= 0; --d) {
      offset += strides[d];
      if (++index[d] < sizes[d]) break;
      offset -= strides[d] * sizes[d];
      index[d] = 0;
    }
  }
}

template <class T>
void load_as(const Tensor& t, int operand, int64_t start, int length, float* RESTRICT out) {
  const T* data = static_cast<const T*>(t.data[operand]);
  if (!t.strides) {
    for (int i = 0; i < length; ++i) out[i] = widen(data[start + i]);
    return;
  }
  int64_t offsets[RUN];
  find_offsets(t, operand, start, length, offsets);
  for (int i = 0; i < length; ++i) out[i] = widen(data[offsets[i]]);
}

template <class T>
void store_as(const Tensor& t, int operand, int64_t start, int length, const float* RESTRICT values) {
  T* data = static_cast<T*>(t.data[operand]);
  if (!t.strides) {
    for (int i = 0; i < length; ++i) data[start + i] = narrow<T>(values[i]);
    return;
  }
  int64_t offsets[RUN];
  find_offsets(t, operand, start, length, offsets);
  for (int i = 0; i < length; ++i) data[offsets[i]] = narrow<T>(values[i]);
}

inline Dtype dtype_of(const Tensor& t, int operand) {
  return operand <= GRAD ? t.dtype[operand] : t.codebooks ? INT8 : FLOAT32;
}

// The entries of a run: in place where they are contiguous float32, else a copy in `buffer`. Moments in 8 bits are
// contiguous, and are written in whole quantisation blocks.
float* load(const Tensor& t, int operand, int64_t start, int length, float* buffer) {
  const Dtype dtype = dtype_of(t, operand);
  if (dtype == FLOAT32 && !t.strides) return static_cast<float*>(t.data[operand]) + start;
  if (dtype == FLOAT32) load_as<float>(t, operand, start, length, buffer);
  if (dtype == BFLOAT16) load_as<BFloat>(t, operand, start, length, buffer);
  if (dtype == FLOAT16) load_as<Half>(t, operand, start, length, buffer);
  if (dtype == INT8) {
    dequantise(t.codebooks[operand - EXP_AVG], static_cast<uint8_t*>(t.data[operand]), start, length, buffer);
  }
  return buffer;
}

// Writes back what load returned, unless that was the tensor itself.
void store(const Tensor& t, int operand, int64_t start, int length, const float* values) {
  const Dtype dtype = dtype_of(t, operand);
  if (dtype == FLOAT32 && !t.strides) return;
  if (dtype == FLOAT32) store_as<float>(t, operand, start, length, values);
  if (dtype == BFLOAT16) store_as<BFloat>(t, operand, start, length, values);
  if (dtype == FLOAT16) store_as<Half>(t, operand, start, length, values);
  if (dtype == INT8) {
    quantise(t.codebooks[operand - EXP_AVG], static_cast<uint8_t*>(t.data[operand]), start, length, values);
  }
}

// Prefetches memory that is needed soon, if it lies in one piece: it arrives while something else is worked on.
inline void prefetch(const Tensor& t, int operand, int64_t start, int length) {
  if (t.strides) return;
  const Dtype dtype = dtype_of(t, operand);
  const int64_t itemsize = dtype == FLOAT32 ? 4 : dtype == INT8 ? 1 : 2;
  const char* data = static_cast<const char*>(t.data[operand]) + start * itemsize;
  for (int64_t i = 0; i < length * itemsize; i += 64) PREFETCH(data + i);
}

const float* load_grad(const Tensor& t, int64_t start, int length, float* buffer) {
  const float* grad = load(t, GRAD, start, length, buffer);
  if (!t.maximize) return grad;
  for (int i = 0; i < length; ++i) buffer[i] = -grad[i];
  return buffer;
}

inline int run_length(int64_t done, int64_t length) { return length - done < RUN ? int(length - done) : RUN; }
