// The one operation that compilers do not find by themselves: a comparison of a line of keys as one bit for each.
// Included by kernel.cpp within its namespace.

#if defined(__AVX512F__)

inline uint32_t reached(const Key* keys, Key low) {
  return _mm512_cmpge_epi32_mask(_mm512_loadu_si512(keys), _mm512_set1_epi32(low));
}

#elif defined(__AVX2__)

inline uint32_t reached(const Key* keys, Key low) {
  const __m256i below = _mm256_set1_epi32(low - 1);
  const __m256i* half = reinterpret_cast<const __m256i*>(keys);
  const __m256i first = _mm256_cmpgt_epi32(_mm256_loadu_si256(half), below);
  const __m256i second = _mm256_cmpgt_epi32(_mm256_loadu_si256(half + 1), below);
  return uint32_t(_mm256_movemask_ps(_mm256_castsi256_ps(first))) |
         uint32_t(_mm256_movemask_ps(_mm256_castsi256_ps(second))) << 8;
}

#else

inline uint32_t reached(const Key* keys, Key low) {
  uint8_t marks[LINE];
  for (int i = 0; i < LINE; ++i) marks[i] = keys[i] >= low;
  uint64_t half[2];
  memcpy(half, marks, LINE);
  constexpr uint64_t gather = 0x0102040810204080;  // brings the lowest bit of byte i to bit i of the highest byte
  return uint32_t(half[0] * gather >> 56) | uint32_t(half[1] * gather >> 56) << 8;
}

#endif
