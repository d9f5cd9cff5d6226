// What the files of the CPU back end share: the tensors of a step as Python hands them over, and the loops over runs of
// entries, which are compiled once for each instruction set (kernel.cpp).
#pragma once

#include <atomic>
#include <cstdint>
#include <limits>

namespace mofo {

// Scores are compared as the integers that have their bits: of non-negative floats these have the same order.
using Key = int32_t;
constexpr Key INFINITE = 0x7F800000;                      // of an infinite score; NaN maps to it too
constexpr Key HIGHEST = std::numeric_limits<Key>::max();  // higher than any
constexpr Key NONE = -1;                                  // lower than any

constexpr int LINE = 16;  // entries that are looked at together: a cache line of float32

enum Dtype : int64_t { FLOAT32, BFLOAT16, FLOAT16, INT8 };  // INT8: of moments alone
enum Score : int64_t { MOMENTUM, GRADIENT, MOMENTUM_OVER_RMS, RANDOM };
enum Operand { PARAM, GRAD, EXP_AVG, EXP_AVG_SQ };

// Straight lines that give the rank of a magnitude in [0, 1] among the codes of one sign: slope * magnitude + offset,
// but at most limit, in units of 1 / UNITS. Line 0 is for the least magnitudes.
struct Lines {
  static constexpr int UNITS = 1 << 12, MARGIN = 16;

  float slope[LINE], offset[LINE], limit[LINE];
  int32_t line[2 * LINE];  // by the lower five bits of the exponent: which line it begins with,
  int32_t next[2 * LINE];  // and the bits, less MARGIN, of the least magnitude for which the next line holds
};

// How a moment in 8 bits is read and written: the code of an entry stands for a number in [-1, 1], which is multiplied
// by the scale of its quantisation block. Fields of 8 bytes, in the order in which library.py packs them.
struct Codebook {
  float* scales;         // of the quantisation blocks, which lie one after the other,
  int64_t block;         // and entries of each: a power of two from LINE to 256
  const float* values;   // [256]: the number that each code stands for
  const uint8_t* cells;  // [1 << 16]: the code of the smallest number whose upper 16 bits, plus 2^15, are the index
  const float* bounds;   // [256]: the smallest number that has a higher code; cells are so small that none has two
  const Lines* lines;    // of its numbers
  int64_t is_signed;     // 1: some of its numbers are negative
};

// One tensor of a step. Fields of 8 bytes, in the order in which library.py packs them.
struct Tensor {
  void* data[4];              // by Operand
  const int64_t* strides;     // null where all four are contiguous; else dims, sizes[dims], strides[4][dims]
  const Codebook* codebooks;  // of EXP_AVG and EXP_AVG_SQ, if these are codes in 8 bits; null: they are float32
  Dtype dtype[2];             // of PARAM and GRAD
  int64_t blocks;             // equal consecutive pieces, whose entries compete
  int64_t n, k;               // entries of a block, and how many of them move
  Score score;
  int64_t noise_key;        // of this tensor and step, for RANDOM
  int64_t random_rounding;  // 1: new values of a BFLOAT16 parameter are rounded at random
  int64_t rounding_key;     // of this tensor and step, for random_rounding
  int64_t maximize;
  int64_t decay_all;   // weight decay of every entry, not of the selected alone
  double lerp_weight;  // 1 - beta1
  double beta2;
  double addcmul_value;  // 1 - beta2
  double correction;     // sqrt(1 - beta2^t)
  double eps;
  double shrink;     // 1 - lr * weight_decay
  double step_size;  // lr / (1 - beta1^t)
};

// Between which two keys (inclusive) the k-th highest is expected.
struct Bracket {
  Key low, high;
};

// What a pass over a block found: the numbers of keys above the bracket and inside, and those inside while there is
// room.
struct Band {
  Key* keys;
  int64_t capacity;
  std::atomic<int64_t> above{0};
  std::atomic<int64_t> inside{0};
};

// An entry inside the bracket, with its moments, so that they need not be read again to move it.
struct Candidate {
  Key key;
  float exp_avg, exp_avg_sq;
  uint32_t position;  // from the start of the range
};

// What a pass did with the entries of a range before `until`, where its memory ended: those above the bracket were
// moved at once, and their former values are kept in case the bracket was too low; those inside it are candidates.
// Former values fill the memory from the front, candidates from the end.
struct Journal {
  uint32_t* former;
  Candidate* end;
  int64_t moved = 0;
  int64_t candidates = 0;
  int64_t until = 0;
};

// The block that a thread works on next. Its memory is fetched while the present one, in the cache, is worked on.
struct Next {
  const Tensor* tensor = nullptr;  // null: there is none
  int64_t start = 0;
};

// The loops of one instruction set, over the entries [start, start + length) of a tensor in row-major order.
struct Kernel {
  // Update both moments, count the keys above and inside the bracket, and collect those inside. With a journal, move
  // the entries above while its memory lasts. Moments in 8 bits are not written yet: rounded, they would no longer be
  // the values by which the entries are ranked and moved. Until `apply` writes them, all loops compute them again.
  void (*moments)(const Tensor&, int64_t start, int64_t length, Bracket, Band&, Journal*);
  // Compute the keys that lines of LINE entries will have once their moments are updated. Writes nothing else.
  void (*peek)(const Tensor&, const int64_t* starts, int lines, Key* keys);
  // Count the keys of a list that are at least `low`.
  int64_t (*count_from)(const Key* keys, int64_t count, Key low);
  // Move those in the bracket to the front of the list. Returns how many there are.
  int64_t (*keep)(Key* keys, int64_t count, Bracket);
  // Count the keys that equal `key`.
  int64_t (*count_equal)(const Tensor&, int64_t start, int64_t length, Key key);
  // Add to bins[i] the number of keys in the bracket with (key - low) >> shift == i, to bins[above] that of those
  // above.
  void (*histogram)(const Tensor&, int64_t start, int64_t length, Bracket, int shift, int64_t above, int64_t* bins);
  // Update the parameters with a key > above, and the first `ties` of those with key == above.
  void (*apply)(const Tensor&, int64_t start, int64_t length, Key above, int64_t ties, Next next);
  // Update likewise the candidates of the range that starts there. Returns how many of the ties are left.
  int64_t (*apply_listed)(const Tensor&, int64_t start, const Journal&, Key above, int64_t ties);
  // Restore what was moved in the range that starts there: all entries with a key above `high`.
  void (*undo)(const Tensor&, int64_t start, const Journal&, Key high);
  // Update moments and parameters of all entries.
  void (*everything)(const Tensor&, int64_t start, int64_t length);
  // Read the values of a moment in 8 bits, and write them: whole quantisation blocks.
  void (*dequantise)(const Codebook&, const uint8_t* codes, int64_t start, int64_t length, float* values);
  void (*quantise)(const Codebook&, uint8_t* codes, int64_t start, int64_t length, const float* values);
};

namespace avx512 {
extern const Kernel kernel;
}
namespace avx2 {
extern const Kernel kernel;
}
namespace baseline {
extern const Kernel kernel;
}

}  // namespace mofo
