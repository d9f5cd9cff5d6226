// Moments in 8 bits, with the results of torchao's OptimState8bit to the bit. Included by kernel.cpp within its
// namespace. What compilers do not find by themselves is written out for AVX-512, which has room for whole tables in
// its registers.

// ---- Reading: the number that a code stands for, times the scale.

#if defined(__AVX512F__)

class Lookup {
 public:
  explicit Lookup(const Codebook& book) {
    for (int i = 0; i < 16; ++i) table_[i] = _mm512_loadu_ps(book.values + 16 * i);
  }

  // Writes LINE values.
  void operator()(const uint8_t* codes, float scale, float* out) const {
    const __m512i code = _mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(codes)));
    __m512 found[8];  // by the five lower bits, in any two registers; the three upper ones say in which
    for (int i = 0; i < 8; ++i) found[i] = _mm512_permutex2var_ps(table_[2 * i], code, table_[2 * i + 1]);
    for (int bit = 5, left = 4; left > 0; ++bit, left /= 2) {
      const __mmask16 upper = _mm512_test_epi32_mask(code, _mm512_set1_epi32(1 << bit));
      for (int i = 0; i < left; ++i) found[i] = _mm512_mask_blend_ps(upper, found[2 * i], found[2 * i + 1]);
    }
    _mm512_storeu_ps(out, _mm512_mul_ps(found[0], _mm512_set1_ps(scale)));
  }

 private:
  __m512 table_[16];
};

#else

class Lookup {
 public:
  explicit Lookup(const Codebook& book) : values_(book.values) {}

  void operator()(const uint8_t* codes, float scale, float* RESTRICT out) const {
    for (int i = 0; i < LINE; ++i) out[i] = values_[codes[i]] * scale;
  }

 private:
  const float* values_;
};

#endif

// Reads the values of any entries.
void dequantise(const Codebook& book, const uint8_t* codes, int64_t start, int64_t length, float* RESTRICT out) {
  const Lookup lookup(book);
  while (length > 0) {
    const int64_t left = book.block - start % book.block;
    const int size = int(left < length ? left : length);
    const float scale = book.scales[start / book.block];
    const int full = size / LINE * LINE;
    for (int i = 0; i < full; i += LINE) lookup(codes + start + i, scale, out + i);
    for (int i = full; i < size; ++i) out[i] = book.values[codes[start + i]] * scale;
    start += size;
    length -= size;
    out += size;
  }
}

// ---- Writing: the code of the number that is nearest, as torchao rounds.

inline uint8_t code_of(const Codebook& book, float y) {
  const uint8_t code = book.cells[bits<uint32_t>(y) >> 16 ^ 0x8000];
  return uint8_t(code + (y >= book.bounds[code]));
}

#if defined(__AVX512F__)

// The numbers are equally spaced within each of seven decades, so that there the rank of a magnitude among the codes is
// a straight line, chosen by the magnitude's exponent and by whether it has reached the next line's start. So near to a
// bound of two codes that the rounding of the line, or of the product with 1 / scale, could decide, `code_of` does.
class Rounder {
 public:
  explicit Rounder(const Codebook& book)
      : book_(book),
        zero_(_mm512_set1_epi32(int(book.zero))),
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
    const __m512 y = _mm512_mul_ps(_mm512_loadu_ps(x), _mm512_set1_ps(inverse));
    const __m512i magnitude = _mm512_max_epi32(_mm512_and_si512(_mm512_castps_si512(y), _mm512_set1_epi32(0x7FFFFFFF)),
                                               _mm512_set1_epi32(96 << 23));  // 2^-31
    const __m512i exponent = _mm512_srli_epi32(magnitude, 23);                // five bits of it count
    const __m512i beyond = _mm512_sub_epi32(magnitude, _mm512_permutex2var_epi32(next_[0], exponent, next_[1]));
    const __m512i first = _mm512_permutex2var_epi32(line_[0], exponent, line_[1]);
    const __mmask16 reached = _mm512_cmpge_epi32_mask(beyond, _mm512_setzero_si512());
    const __m512i line = _mm512_mask_add_epi32(first, reached, first, _mm512_set1_epi32(1));
    const __m512 rank =
        _mm512_min_ps(_mm512_permutexvar_ps(line, limit_),
                      _mm512_fmadd_ps(_mm512_castsi512_ps(magnitude), _mm512_permutexvar_ps(line, slope_),
                                      _mm512_permutexvar_ps(line, offset_)));
    const __m512 off = _mm512_sub_ps(rank, _mm512_roundscale_ps(rank, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
    const __mmask16 unsure = _mm512_cmp_ps_mask(_mm512_abs_ps(off), _mm512_set1_ps(NEAR_RANK), _CMP_LT_OQ) |
                             _mm512_cmplt_epu32_mask(_mm512_add_epi32(beyond, _mm512_set1_epi32(NEAR_BITS)),
                                                     _mm512_set1_epi32(2 * NEAR_BITS));
    if (unsure) {
      for (int i = 0; i < LINE; ++i) codes[i] = code_of(book_, x[i] / scale);
      return;
    }
    const __m512i distance = _mm512_cvttps_epi32(rank);
    const __m512i code = _mm512_mask_sub_epi32(_mm512_add_epi32(zero_, distance),
                                               _mm512_movepi32_mask(_mm512_castps_si512(y)), zero_, distance);
    _mm_storeu_si128(reinterpret_cast<__m128i*>(codes),
                     _mm512_cvtepi32_epi8(_mm512_max_epi32(code, _mm512_setzero_si512())));
  }

 private:
  static constexpr float NEAR_RANK = 0x1p-12f;
  static constexpr int NEAR_BITS = 16;  // in units in the last place

  const Codebook& book_;
  const __m512i zero_;
  const __m512 slope_, offset_, limit_;
  __m512i line_[2], next_[2];
};

#else

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

// Rounds the values of whole quantisation blocks.
void quantise(const Codebook& book, uint8_t* codes, int64_t start, int64_t length, const float* values) {
  const Rounder round(book);
  const int size = int(book.block);
  for (const int64_t end = start + length; start < end; start += size, values += size) {
    int32_t largest = bits<int32_t>(1e-12f);  // as integers, of which a NaN is the largest
    for (int i = 0; i < size; ++i) {
      const int32_t magnitude = bits<int32_t>(values[i]) & 0x7FFFFFFF;
      largest = magnitude > largest ? magnitude : largest;
    }
    const float scale = bits<float>(largest), inverse = 1 / scale;
    book.scales[start / size] = scale;
    if (!(inverse >= FLT_MIN)) {  // NaN, infinity, or so large that the inverse is rounded
      for (int i = 0; i < size; ++i) codes[start + i] = code_of(book, values[i] / scale);
      continue;
    }
    for (int i = 0; i < size; i += LINE) round(values + i, scale, inverse, codes + start + i);
  }
}
