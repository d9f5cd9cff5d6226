// Moments in 8 bits, with the results of torchao's OptimState8bit to the bit. Included by kernel.cpp within its
// namespace.

// Reads the values of any entries.
void dequantise(const Codebook& book, const uint8_t* codes, int64_t start, int64_t length, float* RESTRICT out) {
  while (length > 0) {
    const int64_t left = book.block - start % book.block;
    const int size = int(left < length ? left : length);
    const float scale = book.scales[start / book.block];
    for (int i = 0; i < size; ++i) out[i] = book.values[codes[start + i]] * scale;
    start += size;
    length -= size;
    out += size;
  }
}

// Rounds the values of whole quantisation blocks.
void quantise(const Codebook& book, uint8_t* codes, int64_t start, int64_t length, const float* values) {
  const int size = int(book.block);
  float y[RUN];
  for (const int64_t end = start + length; start < end; start += size, values += size) {
    int32_t largest = bits<int32_t>(1e-12f);  // as integers, of which a NaN is the largest
    for (int i = 0; i < size; ++i) {
      const int32_t magnitude = bits<int32_t>(values[i]) & 0x7FFFFFFF;
      largest = magnitude > largest ? magnitude : largest;
    }
    const float scale = bits<float>(largest);
    book.scales[start / size] = scale;
    for (int i = 0; i < size; ++i) y[i] = values[i] / scale;
    for (int i = 0; i < size; ++i) {
      const uint8_t code = book.cells[bits<uint32_t>(y[i]) >> 16 ^ 0x8000];
      codes[start + i] = uint8_t(code + (y[i] >= book.bounds[code]));
    }
  }
}
