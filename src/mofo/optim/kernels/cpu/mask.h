// Sets of the entries of a line, a bit for each: the operations that compilers do not find by themselves. Included by
// choose.h within the namespace of kernel.cpp. There are no branches on the bits, which are unpredictable.

using Mask = uint16_t;  // the entry at the lowest place is the lowest bit

inline int lowest_bit(uint32_t set) {  // of a set that is not empty
#if defined(_MSC_VER)
  unsigned long index;
  _BitScanForward(&index, set);
  return int(index);
#else
  return __builtin_ctz(set);
#endif
}

inline int bit_count(uint64_t set) {  // compilers recognise this
  set -= set >> 1 & 0x5555555555555555;
  set = (set & 0x3333333333333333) + (set >> 2 & 0x3333333333333333);
  set = (set + (set >> 4)) & 0x0F0F0F0F0F0F0F0F;
  return int(set * 0x0101010101010101 >> 56);
}

// ---- mask_of(keys, low): which keys of a line are at least `low`.

#if defined(__AVX512F__)

inline Mask mask_of(const Key* keys, Key low) {
  return _mm512_cmpge_epi32_mask(_mm512_loadu_si512(keys), _mm512_set1_epi32(low));
}

#elif defined(__AVX2__)

inline Mask mask_of(const Key* keys, Key low) {
  const __m256i below = _mm256_set1_epi32(low - 1);
  const __m256i* half = reinterpret_cast<const __m256i*>(keys);
  const __m256i first = _mm256_cmpgt_epi32(_mm256_loadu_si256(half), below);
  const __m256i second = _mm256_cmpgt_epi32(_mm256_loadu_si256(half + 1), below);
  return Mask(_mm256_movemask_ps(_mm256_castsi256_ps(first)) | _mm256_movemask_ps(_mm256_castsi256_ps(second)) << 8);
}

#else

inline Mask mask_of(const Key* keys, Key low) {
  uint8_t marks[LINE];
  for (int i = 0; i < LINE; ++i) marks[i] = keys[i] >= low;
  uint64_t half[2];
  memcpy(half, marks, LINE);
  constexpr uint64_t gather = 0x0102040810204080;  // brings the lowest bit of byte i to bit i of the highest byte
  return Mask(half[0] * gather >> 56 | (half[1] * gather >> 56) << 8);
}

#endif

// ---- The entries whose bit is set.

// For each set of eight bits, the positions of its bits in ascending order, and their number.
struct Positions {
  uint8_t of[256][8];
  uint8_t count[256];

  constexpr Positions() : of(), count() {
    for (int set = 0; set < 256; ++set) {
      for (int bit = 0; bit < 8; ++bit) {
        if (set >> bit & 1) of[set][count[set]++] = uint8_t(bit);
      }
    }
  }
};
constexpr Positions POSITIONS;

// Appends their positions, counted from `first`. Writes up to eight more than there are.
inline uint16_t* append_positions(Mask mask, int first, uint16_t* out) {
  for (int half = 0; half < 2; ++half) {
    const int set = mask >> 8 * half & 0xFF;
    for (int i = 0; i < 8; ++i) out[i] = uint16_t(POSITIONS.of[set][i] + first + 8 * half);
    out += POSITIONS.count[set];
  }
  return out;
}

// Appends their values. Writes up to LINE values.
#if defined(__AVX512F__)

inline uint32_t* append_values(Mask mask, const uint32_t* values, uint32_t* out) {
  _mm512_storeu_si512(out, _mm512_maskz_compress_epi32(mask, _mm512_loadu_si512(values)));
  return out + bit_count(mask);
}

// Writes their values, read from memory of which nothing else is touched, and zeros behind them up to LINE.
inline void append_line(Mask mask, const void* values, void* out) {
  _mm512_storeu_si512(out, _mm512_maskz_compress_epi32(mask, _mm512_maskz_loadu_epi32(mask, values)));
}

// Writes consecutive values to their places, and nothing elsewhere.
inline void spread_line(Mask mask, const float* values, float* out) {
  _mm512_mask_storeu_ps(out, mask, _mm512_maskz_expand_ps(mask, _mm512_loadu_ps(values)));
}

#else

inline uint32_t* append_values(Mask mask, const uint32_t* values, uint32_t* out) {
  for (int half = 0; half < 2; ++half) {
    const int set = mask >> 8 * half & 0xFF;
    for (int i = 0; i < 8; ++i) out[i] = values[8 * half + POSITIONS.of[set][i]];
    out += POSITIONS.count[set];
  }
  return out;
}

#endif
