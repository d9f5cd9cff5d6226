// The local phases of a step of consecutive entries of a block.
#include "piece.h"

#include <algorithm>
#include <cstring>

namespace mofo {
namespace {

constexpr int64_t SAMPLED = 64;  // lines that are asked for together

// Lines that hold entries of a sample.
struct Batch {
  int64_t starts[SAMPLED];
  int64_t first[SAMPLED];  // in the line
  int lines = 0;
};

// Asks for what the keys of a batch are computed from.
void prefetch(const Tensor& t, const Batch& batch) {
#if defined(__GNUC__)
  const int last = t.score == MOMENTUM_OVER_RMS ? EXP_AVG_SQ : EXP_AVG;
  for (int operand = GRAD; operand <= last; ++operand) {
    const int64_t itemsize = operand == GRAD && t.dtype[operand] != FLOAT32 ? 2 : 4;
    const char* data = static_cast<const char*>(t.data[operand]);
    for (int line = 0; line < batch.lines; ++line) __builtin_prefetch(data + batch.starts[line] * itemsize);
  }
#endif
}

// A line of a tensor that ends before the line does, in memory of its own.
class ShortLine {
 public:
  ShortLine(const Tensor& t, int64_t start, int64_t length) : tensor_(t) {
    for (int operand = PARAM; operand <= EXP_AVG_SQ; ++operand) {
      const int64_t itemsize = operand <= GRAD && t.dtype[operand] != FLOAT32 ? 2 : 4;
      const char* from = static_cast<const char*>(t.data[operand]) + start * itemsize;
      std::memcpy(memory_[operand], from, size_t(length * itemsize));
      tensor_.data[operand] = memory_[operand];
    }
  }

  const Tensor& tensor() const { return tensor_; }

 private:
  Tensor tensor_;
  float memory_[4][LINE] = {};
};

}  // namespace

// The first entry that is sampled: every block's first one is, and from there on one in every `stride`.
int64_t Piece::first_sampled() const { return (stride - offset % stride) % stride; }

void Piece::count_sample(const Kernel& kernel, Key least, int shift, int64_t bins, int64_t* counts) const {
  const Tensor& t = *tensor;
  const int64_t last = length - LINE;
  Key sampled[SAMPLED * LINE];
  const auto count = [&](Key key) {
    const int64_t bin = (int64_t(key) - least) >> shift;
    ++counts[std::min(std::max<int64_t>(bin, 0), bins - 1)];
  };
  if (last < 0) {
    const ShortLine line(t, start, length);
    const int64_t begin = 0;
    kernel.peek(line.tensor(), &begin, 1, sampled);
    for (int64_t i = first_sampled(); i < length; i += stride) count(sampled[i]);
    return;
  }
  // The lines of one batch arrive in the cache while the keys of the batch before are counted.
  Batch batches[2];
  int64_t next = first_sampled();
  for (int turn = 0; next < length || batches[1 - turn].lines > 0; turn = 1 - turn) {
    Batch &coming = batches[turn], &present = batches[1 - turn];
    coming.lines = 0;
    for (; coming.lines < SAMPLED && next < length; ++coming.lines) {
      const int64_t line = std::min(next / LINE * LINE, last);  // a line of the cache, if the block begins with one
      coming.starts[coming.lines] = start + line;
      coming.first[coming.lines] = next - line;
      next += (line + LINE - next + stride - 1) / stride * stride;
    }
    prefetch(t, coming);
    kernel.peek(t, present.starts, present.lines, sampled);
    for (int line = 0; line < present.lines; ++line) {
      for (int64_t i = present.first[line]; i < LINE; i += stride) count(sampled[line * LINE + i]);
    }
  }
}

void Piece::update_moments(const Kernel& kernel, Bracket within, Unused& unused) {
  const bool at_once = within.low > 0 && !tensor->decay_all;
  Band band{unused.keys, unused.keys_end - unused.keys};
  if (at_once) journal = unused.journal;
  kernel.moments(*tensor, start, length, within, band, at_once ? &journal : nullptr);
  bracket = within;
  above = band.above;
  inside = band.inside;
  if (within.low < within.high && inside <= band.capacity) {
    keys = unused.keys;
    unused.keys += inside;
  }
  if (!at_once) return;
  unused.journal = {journal.former + journal.moved, journal.end - journal.candidates};
}

void Piece::count_bins(const Kernel& kernel, Bracket within, int shift, int64_t bins, int64_t* counts) const {
  if (!keys || !is_inside(within.low, within.high)) {
    kernel.histogram(*tensor, start, length, within, shift, bins, counts);
    return;
  }
  // One comparison tells what is inside: nearly all at first, then nearly nothing. Which side the others are on could
  // not be predicted.
  const uint32_t span = uint32_t(within.high - within.low);
  int64_t higher = above;
  for (const Key *key = keys, *end = key + inside; key < end; ++key) {
    const uint32_t place = uint32_t(*key) - uint32_t(within.low);
    higher += *key > within.high;
    if (place <= span) ++counts[place >> shift];
  }
  counts[bins] += higher;
}

int64_t Piece::count_equal(const Kernel& kernel, Key key) const {
  int64_t equal = 0, done = 0;
  if (is_inside(key, key)) {
    done = journal.until;
    for_candidates([&](const Candidate& candidate) { equal += candidate.key == key; });
  }
  if (done == length) return equal;
  return equal + kernel.count_equal(*tensor, start + done, length - done, key);
}

void Piece::move(const Kernel& kernel, Key key) const {
  int64_t left = ties, done = 0;
  if (is_inside(key, key)) {
    done = journal.until;
    left = kernel.apply_listed(*tensor, start, journal, key, left);
  } else if (journal.until > 0) {  // the bracket has misled
    kernel.undo(*tensor, start, journal, bracket.high);
  }
  if (done < length) kernel.apply(*tensor, start + done, length - done, key, left, {});
}

}  // namespace mofo
