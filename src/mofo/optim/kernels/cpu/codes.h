// Moments in 8 bits, with the results of torchao's OptimState8bit to the bit. Included by kernel.cpp within its
// namespace. What compilers do not find by themselves is written out for AVX-512, which has room for whole tables in
// its registers.

// ---- Reading: the number that a code stands for, times the scale.

#if defined(__AVX512F__)

// Looks up the two halves of a float apart, because there are twice as many of them in a register.
class Lookup {
 public:
  static constexpr int TOGETHER = 2 * LINE;

  explicit Lookup(const Codebook& book) {
    for (int i = 0; i < 8; ++i) {
      const __m512i first = _mm512_loadu_si512(book.values + 2 * LINE * i);
      const __m512i second = _mm512_loadu_si512(book.values + 2 * LINE * i + LINE);
      lower_[i] = join(_mm512_cvtepi32_epi16(first), _mm512_cvtepi32_epi16(second));
      upper_[i] = join(_mm512_cvtepi32_epi16(_mm512_srli_epi32(first, 16)),
                       _mm512_cvtepi32_epi16(_mm512_srli_epi32(second, 16)));
    }
  }

  // Writes TOGETHER values.
  void operator()(const uint8_t* codes, float scale, float* out) const {
    const __m512i in_order = _mm512_cvtepu8_epi16(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(codes)));
    // such that the halves, interleaved within quarters of a register, are in order
    const __m512i code = _mm512_permutexvar_epi64(_mm512_setr_epi64(0, 4, 1, 5, 2, 6, 3, 7), in_order);
    const __m512i lower = find(lower_, code), upper = find(upper_, code);
    store(out, _mm512_unpacklo_epi16(lower, upper), scale);
    store(out + LINE, _mm512_unpackhi_epi16(lower, upper), scale);
  }

 private:
  static __m512i join(__m256i first, __m256i second) {
    return _mm512_inserti64x4(_mm512_castsi256_si512(first), second, 1);
  }

  static void store(float* out, __m512i found, float scale) {
    _mm512_storeu_ps(out, _mm512_mul_ps(_mm512_castsi512_ps(found), _mm512_set1_ps(scale)));
  }

  static __m512i find(const __m512i (&table)[8], __m512i code) {
    const __mmask32 odd = _mm512_test_epi16_mask(code, _mm512_set1_epi16(64));
    const __mmask32 high = _mm512_test_epi16_mask(code, _mm512_set1_epi16(128));
    __m512i found[4];  // by the six lower bits, in any two registers; the two upper ones say in which
    for (int i = 0; i < 4; ++i) found[i] = _mm512_permutex2var_epi16(table[2 * i], code, table[2 * i + 1]);
    return _mm512_mask_blend_epi16(high, _mm512_mask_blend_epi16(odd, found[0], found[1]),
                                   _mm512_mask_blend_epi16(odd, found[2], found[3]));
  }

  __m512i lower_[8], upper_[8];
};

#else

class Lookup {
 public:
  static constexpr int TOGETHER = LINE;

  explicit Lookup(const Codebook& book) : values_(book.values) {}

  void operator()(const uint8_t* codes, float scale, float* RESTRICT out) const {
    for (int i = 0; i < TOGETHER; ++i) out[i] = values_[codes[i]] * scale;
  }

 private:
  const float* values_;
};

#endif

// Reads the values of any entries.
void dequantise(const Codebook& book, const uint8_t* codes, int64_t start, int64_t length, float* RESTRICT out) {
  const float* scale = book.scales + start / book.block;
  int64_t left = book.block - start % book.block;  // of the quantisation block
  codes += start;
  if (length >= book.block) {
    const Lookup lookup(book);
    for (; left == book.block && length >= left; ++scale, codes += left, out += left, length -= left) {
      for (int i = 0; i < left; i += Lookup::TOGETHER) lookup(codes + i, *scale, out + i);
    }
  }
  for (int64_t i = 0; i < length; ++i, --left) {
    if (left == 0) {
      left = book.block;
      ++scale;
    }
    out[i] = book.values[codes[i]] * *scale;
  }
}

// ---- Writing: the code of the number that is nearest, as torchao rounds.

constexpr int ZERO = 127;  // the code of 0 where there are negative numbers

inline uint8_t code_of(const Codebook& book, float y) {
  const uint8_t code = book.cells[bits<uint32_t>(y) >> 16 ^ 0x8000];
  return uint8_t(code + (y >= book.bounds[code]));
}

#if defined(__AVX512F__)

// The numbers are equally spaced within each of seven decades, so that there the rank of a magnitude among the codes is
// a straight line, chosen by the magnitude's exponent and by whether it has reached the next line's start. So near to a
// bound of two codes that the rounding of the line, or of the product with 1 / scale, could decide, `code_of` does.
template <bool is_signed>
class Rounder {
 public:
  explicit Rounder(const Codebook& book)
      : book_(book),
        slope_(_mm512_loadu_ps(book.lines->slope)),
        offset_(_mm512_loadu_ps(book.lines->offset)),
        limit_(_mm512_loadu_ps(book.lines->limit)) {
    for (int i = 0; i < 2; ++i) {
      line_[i] = _mm512_loadu_si512(book.lines->line + LINE * i);
      next_[i] = _mm512_loadu_si512(book.lines->next + LINE * i);
    }
  }

  // Writes LINE codes.
  void operator()(const float* x, float scale, float inverse, uint8_t* codes) const {
    const __m512i y = _mm512_castps_si512(_mm512_mul_ps(_mm512_loadu_ps(x), _mm512_set1_ps(inverse)));
    const __m512i positive = is_signed ? _mm512_and_si512(y, _mm512_set1_epi32(0x7FFFFFFF)) : y;
    const __m512i magnitude = _mm512_max_epi32(positive, _mm512_set1_epi32(96 << 23));  // 2^-31 or more
    const __m512i exponent = _mm512_srli_epi32(magnitude, 23);                          // five bits of it count
    const __m512i beyond = _mm512_sub_epi32(magnitude, _mm512_permutex2var_epi32(next_[0], exponent, next_[1]));
    const __mmask16 reached = _mm512_cmpge_epi32_mask(beyond, _mm512_set1_epi32(Lines::MARGIN));
    const __m512i before = _mm512_permutex2var_epi32(line_[0], exponent, line_[1]);
    const __m512i line = _mm512_mask_add_epi32(before, reached, before, _mm512_set1_epi32(1));
    const __m512 height = _mm512_fmadd_ps(_mm512_castsi512_ps(magnitude), _mm512_permutexvar_ps(line, slope_),
                                          _mm512_permutexvar_ps(line, offset_));
    const __m512i units = _mm512_cvttps_epi32(_mm512_min_ps(_mm512_permutexvar_ps(line, limit_), height));
    const __m512i from_bound = _mm512_add_epi32(units, _mm512_set1_epi32(1));  // 0 or 1 within a unit of one
    const __mmask16 near_bound = _mm512_testn_epi32_mask(from_bound, _mm512_set1_epi32(Lines::UNITS - 2));
    const __mmask16 near_start = _mm512_cmplt_epu32_mask(beyond, _mm512_set1_epi32(2 * Lines::MARGIN));
    if (!_mm512_kortestz(near_bound, near_start)) {
      for (int i = 0; i < LINE; ++i) codes[i] = code_of(book_, x[i] / scale);
      return;
    }
    __m512i code = _mm512_srli_epi32(units, 12);
    static_assert(Lines::UNITS == 1 << 12, "a shift divides by it");
    if (is_signed) {
      const __m512i zero = _mm512_set1_epi32(ZERO);
      code = _mm512_mask_sub_epi32(_mm512_add_epi32(zero, code), _mm512_movepi32_mask(y), zero, code);
      code = _mm512_max_epi32(code, _mm512_setzero_si512());  // there is 1, but not -1
    }
    _mm_storeu_si128(reinterpret_cast<__m128i*>(codes), _mm512_cvtepi32_epi8(code));
  }

 private:
  const Codebook& book_;
  const __m512 slope_, offset_, limit_;
  __m512i line_[2], next_[2];
};

#else

template <bool is_signed>
class Rounder {
 public:
  explicit Rounder(const Codebook& book) : book_(book) {}

  void operator()(const float* x, float scale, float, uint8_t* codes) const {
    float y[LINE];
    for (int i = 0; i < LINE; ++i) y[i] = x[i] / scale;
    for (int i = 0; i < LINE; ++i) codes[i] = code_of(book_, y[i]);
  }

 private:
  const Codebook& book_;
};

#endif

inline int32_t largest_of(const int32_t (&numbers)[LINE]) {
#if defined(__AVX512F__)
  return _mm512_reduce_max_epi32(_mm512_loadu_si512(numbers));
#else
  int32_t largest = numbers[0];
  for (int i = 1; i < LINE; ++i) largest = numbers[i] > largest ? numbers[i] : largest;
  return largest;
#endif
}

// The scale of a quantisation block.
inline float scale_of(const float* values, int size) {
  int32_t largest[LINE];  // as integers, of which a NaN is the largest
  for (int i = 0; i < LINE; ++i) largest[i] = bits<int32_t>(1e-12f);
  for (int done = 0; done < size; done += LINE) {
    for (int i = 0; i < LINE; ++i) {
      const int32_t magnitude = bits<int32_t>(values[done + i]) & 0x7FFFFFFF;
      largest[i] = magnitude > largest[i] ? magnitude : largest[i];
    }
  }
  return bits<float>(largest_of(largest));
}

template <bool is_signed>
void quantise_as(const Codebook& book, uint8_t* codes, int64_t start, int64_t length, const float* values) {
  const Rounder<is_signed> round(book);
  const int size = int(book.block);
  float* scales = book.scales + start / size;
  codes += start;
  for (int64_t done = 0; done < length; done += RUN) {
    const int blocks = int(length - done < RUN ? length - done : RUN) / size;
    for (int i = 0; i < blocks; ++i) scales[i] = scale_of(values + i * size, size);
    for (int i = 0; i < blocks; ++i, values += size, codes += size) {
      const float scale = scales[i], inverse = 1 / scale;
      if (inverse >= FLT_MIN) {
        for (int j = 0; j < size; j += LINE) round(values + j, scale, inverse, codes + j);
      } else {  // NaN, infinite, or so large that its inverse is not exact
        for (int j = 0; j < size; ++j) codes[j] = code_of(book, values[j] / scale);
      }
    }
    scales += blocks;
  }
}

// Rounds the values of whole quantisation blocks.
void quantise(const Codebook& book, uint8_t* codes, int64_t start, int64_t length, const float* values) {
  (book.is_signed ? quantise_as<true> : quantise_as<false>)(book, codes, start, length, values);
}
