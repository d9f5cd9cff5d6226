// The local phases of a step of shards, each for all tensors in one call. Between the phases the processes add up what
// they have counted (distributed/search.py): no process knows the threshold of a block alone.
//
// As in the step of whole tensors (step.cpp), the one pass over all entries updates the moments, moves what is above
// the bracket, and keeps what is inside: the keys, in which is counted, and the candidates, which may move later.
// Nothing of the tensors is read again but parameters that move. Where that cannot be (memory was used up, the bracket
// begins at 0 or has misled, or weight decay is of all entries), keys are computed again from the moments.
#include "shards.h"

#include <algorithm>
#include <cstring>
#include <memory>
#include <mutex>
#include <new>
#include <vector>

#include "threads.h"

namespace mofo {
namespace {

constexpr int64_t PIECE = 1 << 16;  // entries that a thread takes at a time
constexpr int64_t SAMPLED = 64;     // lines that are asked for together
constexpr int64_t ROOM = 12;   // bytes for each entry that moves: 4 of one that moves at once, and 16 of a candidate,
                               // of which there are half as many
constexpr int64_t LEAST = 64;  // entries for which a block has room at least

// Consecutive entries of a block.
struct Piece {
  const Tensor* tensor;
  int64_t block;  // number among the shared blocks of the step
  int64_t start, length;
  int64_t stride;    // of the sample
  int64_t offset;    // of the start in its block
  bool alone;        // it is all of its block that is here
  int64_t ties = 0;  // entries with the k-th highest key, then how many of them move
  // What the pass over the moments found: the keys inside a bracket, the number of those above, and the journal.
  Bracket bracket{};
  Key* keys = nullptr;
  int64_t above = 0, inside = 0;
  Journal journal{};

  bool is_inside(int64_t low, int64_t high) const { return low >= bracket.low && high <= bracket.high; }

  // Calls visit(candidate) for each candidate, in ascending order of positions.
  template <class Visit>
  void for_candidates(Visit visit) const {
    for (int64_t i = 1; i <= journal.candidates; ++i) visit(journal.end[-i]);
  }
};

// What a thread has left of its memory.
struct Unused {
  Key *keys, *keys_end;
  Journal journal;
};

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

class Shards {
 public:
  void begin(const Tensor* tensors, const Share* shares, int64_t count, int64_t bins, const Config& config) {
    config_ = config;
    bins_ = bins;
    tensors_.assign(tensors, tensors + count);
    pieces_.clear();
    int64_t expected = team().threads();  // entries that move, and no fewer inside the brackets
    for (int64_t i = 0; i < count; ++i) {
      const Tensor& t = tensors_[size_t(i)];
      add_pieces(t, shares[i]);
      expected += std::min(t.k + LEAST, t.n) * t.blocks;
    }
    if (expected > expected_) {
      expected_ = 0;
      keys_.reset();
      memory_.reset();
      keys_.reset(new Key[size_t(expected)]);  // neither is initialised: unused pages are not touched
      memory_.reset(new Candidate[size_t(candidates(expected))]);
      expected_ = expected;
    }
    unused_.resize(size_t(team().threads()));
    counts_.resize(size_t(team().threads() * (bins + 1)));
  }

  void sample(Key least, int shift, int64_t* counts) {
    for_pieces([&](Piece& piece, int64_t worker) {
      count_into(piece, worker, counts, bins_, [&](int64_t* own) { count_sample(piece, least, shift, own); });
    });
  }

  void update_moments(const int64_t* low, const int64_t* high) {
    const int64_t threads = team().threads(), keys_each = expected_ / threads;
    const int64_t candidates_each = candidates(expected_) / threads;
    for (int64_t worker = 0; worker < threads; ++worker) {
      Candidate* memory = memory_.get() + worker * candidates_each;
      Key* keys = keys_.get() + worker * keys_each;
      unused_[size_t(worker)] = {
          keys, keys + keys_each, {reinterpret_cast<uint32_t*>(memory), memory + candidates_each}};
    }
    for_pieces([&](Piece& piece, int64_t worker) {
      const Bracket bracket{Key(low[piece.block]), Key(high[piece.block])};
      update_moments_of(piece, bracket, unused_[size_t(worker)]);
    });
  }

  void count(const int64_t* low, const int64_t* high, const int64_t* shift, int64_t* counts) {
    for_pieces([&](Piece& piece, int64_t worker) {
      const int64_t block = piece.block;
      if (low[block] > HIGHEST) return;
      const Bracket bracket{Key(low[block]), Key(std::min<int64_t>(high[block], HIGHEST))};
      count_into(piece, worker, counts, bins_ + 1,
                 [&](int64_t* own) { count_bins(piece, bracket, int(shift[block]), own); });
    });
  }

  int64_t tied(int64_t block, Key key, int64_t* positions, int64_t capacity) const {
    int64_t found = 0;
    for (const Piece& piece : pieces_) {
      if (piece.block != block) continue;
      if (!piece.is_inside(key, key) || piece.journal.until < piece.length) return -1;
      piece.for_candidates([&](const Candidate& candidate) {
        if (candidate.key != key) return;
        if (found < capacity) positions[found] = piece.start + candidate.position;
        ++found;
      });
    }
    return found;
  }

  void move(const int64_t* keys, const int64_t* ties) {
    const auto are_cut = [&](const Piece& piece) { return ties[piece.block] < piece.tensor->n; };
    for_pieces([&](Piece& piece, int64_t) {
      if (are_cut(piece)) piece.ties = count_equal(piece, Key(keys[piece.block]));
    });
    int64_t left = 0;  // of the ties of the block of a piece
    for (Piece& piece : pieces_) {
      if (piece.offset == 0) left = ties[piece.block];
      if (!are_cut(piece)) {
        piece.ties = piece.length;
        continue;
      }
      left -= piece.ties;
      piece.ties = std::max<int64_t>(left + piece.ties, 0);
    }
    for_pieces([&](Piece& piece, int64_t) { move_piece(piece, Key(keys[piece.block])); });
  }

 private:
  Team team() const { return Team(config_.threads, config_.openmp); }

  void add_pieces(const Tensor& t, const Share& share) {
    for (int64_t block = 0; block < t.blocks; ++block) {
      for (int64_t offset = 0; offset < t.n; offset += PIECE) {
        const int64_t length = std::min(PIECE, t.n - offset);
        pieces_.push_back({&t, share.first + block, block * t.n + offset, length, share.stride, offset, length == t.n});
      }
    }
  }

  static int64_t candidates(int64_t expected) { return expected * ROOM / int64_t(sizeof(Candidate)) + 1; }

  void update_moments_of(Piece& piece, Bracket bracket, Unused& unused) const {
    const Tensor& t = *piece.tensor;
    const bool at_once = bracket.low > 0 && !t.decay_all;
    Band band{unused.keys, unused.keys_end - unused.keys};
    if (at_once) piece.journal = unused.journal;
    config_.kernel->moments(t, piece.start, piece.length, bracket, band, at_once ? &piece.journal : nullptr);
    piece.bracket = bracket;
    piece.above = band.above;
    piece.inside = band.inside;
    if (bracket.low < bracket.high && piece.inside <= band.capacity) {
      piece.keys = unused.keys;
      unused.keys += piece.inside;
    }
    if (!at_once) return;
    unused.journal = {piece.journal.former + piece.journal.moved, piece.journal.end - piece.journal.candidates};
  }

  // Calls visit(piece, worker) for each piece.
  template <class Visit>
  void for_pieces(const Visit& visit) {
    team().run(int64_t(pieces_.size()), [&](int64_t i, int64_t worker) { visit(pieces_[size_t(i)], worker); });
  }

  // Calls count(own) to add to the `size` counts of a piece's block: in place, unless other threads may count there
  // too.
  template <class Count>
  void count_into(const Piece& piece, int64_t worker, int64_t* counts, int64_t size, const Count& count) {
    counts += piece.block * size;
    if (piece.alone || team().threads() == 1) return count(counts);
    int64_t* own = counts_.data() + worker * (bins_ + 1);
    std::fill(own, own + size, 0);
    count(own);
    const std::lock_guard<std::mutex> lock(adding_);
    for (int64_t i = 0; i < size; ++i) counts[i] += own[i];
  }

  void count_sample(const Piece& piece, Key least, int shift, int64_t* counts) const {
    const Tensor& t = *piece.tensor;
    const int64_t stride = piece.stride, last = piece.length - LINE;
    Key keys[SAMPLED * LINE];
    const auto count = [&](Key key) {
      const int64_t bin = (int64_t(key) - least) >> shift;
      ++counts[std::min(std::max<int64_t>(bin, 0), bins_ - 1)];
    };
    if (last < 0) {
      const ShortLine line(t, piece.start, piece.length);
      const int64_t start = 0;
      config_.kernel->peek(line.tensor(), &start, 1, keys);
      for (int64_t i = first_sampled(piece); i < piece.length; i += stride) count(keys[i]);
      return;
    }
    // The lines of one batch arrive in the cache while the keys of the batch before are counted.
    Batch batches[2];
    int64_t next = first_sampled(piece);
    for (int turn = 0; next < piece.length || batches[1 - turn].lines > 0; turn = 1 - turn) {
      Batch &coming = batches[turn], &present = batches[1 - turn];
      coming.lines = 0;
      for (; coming.lines < SAMPLED && next < piece.length; ++coming.lines) {
        const int64_t line = std::min(next / LINE * LINE, last);  // a line of the cache, if the block begins with one
        coming.starts[coming.lines] = piece.start + line;
        coming.first[coming.lines] = next - line;
        next += (line + LINE - next + stride - 1) / stride * stride;
      }
      prefetch(t, coming);
      config_.kernel->peek(t, present.starts, present.lines, keys);
      for (int line = 0; line < present.lines; ++line) {
        for (int64_t i = present.first[line]; i < LINE; i += stride) count(keys[line * LINE + i]);
      }
    }
  }

  // The first entry of a piece that is sampled: every block's first one is, and from there on one in every `stride`.
  static int64_t first_sampled(const Piece& piece) {
    return (piece.stride - piece.offset % piece.stride) % piece.stride;
  }

  void count_bins(const Piece& piece, Bracket bracket, int shift, int64_t* counts) const {
    if (!piece.keys || !piece.is_inside(bracket.low, bracket.high)) {
      config_.kernel->histogram(*piece.tensor, piece.start, piece.length, bracket, shift, bins_, counts);
      return;
    }
    // One comparison tells what is inside: nearly all at first, then nearly nothing. Which side the others are on could
    // not be predicted.
    const uint32_t span = uint32_t(bracket.high - bracket.low);
    int64_t above = piece.above;
    for (const Key *key = piece.keys, *end = key + piece.inside; key < end; ++key) {
      const uint32_t place = uint32_t(*key) - uint32_t(bracket.low);
      above += *key > bracket.high;
      if (place <= span) ++counts[place >> shift];
    }
    counts[bins_] += above;
  }

  int64_t count_equal(const Piece& piece, Key key) const {
    int64_t equal = 0, done = 0;
    if (piece.is_inside(key, key)) {
      done = piece.journal.until;
      piece.for_candidates([&](const Candidate& candidate) { equal += candidate.key == key; });
    }
    if (done == piece.length) return equal;
    return equal + config_.kernel->count_equal(*piece.tensor, piece.start + done, piece.length - done, key);
  }

  void move_piece(const Piece& piece, Key key) const {
    const Tensor& t = *piece.tensor;
    int64_t left = piece.ties, done = 0;
    if (piece.is_inside(key, key)) {
      done = piece.journal.until;
      left = config_.kernel->apply_listed(t, piece.start, piece.journal, key, left);
    } else if (piece.journal.until > 0) {  // the bracket has misled
      config_.kernel->undo(t, piece.start, piece.journal, piece.bracket.high);
    }
    if (done < piece.length) config_.kernel->apply(t, piece.start + done, piece.length - done, key, left, {});
  }

  Config config_{};
  int64_t bins_ = 0;
  std::vector<Tensor> tensors_;
  std::vector<Piece> pieces_;
  // For keys and for journals; of both an equal part for each thread.
  int64_t expected_ = 0;
  std::unique_ptr<Key[]> keys_;
  std::unique_ptr<Candidate[]> memory_;
  std::vector<Unused> unused_;
  std::vector<int64_t> counts_;  // of each thread, bins_ + 1
  std::mutex adding_;
};

}  // namespace mofo

EXPORT mofo::Shards* mofo_cpu_shards_new() { return new (std::nothrow) mofo::Shards; }

EXPORT void mofo_cpu_shards_delete(mofo::Shards* shards) { delete shards; }

EXPORT int mofo_cpu_shards_begin(mofo::Shards* shards, const mofo::Tensor* tensors, const mofo::Share* shares,
                                 int64_t count, int64_t bins, const mofo::Config* config) {
  try {
    shards->begin(tensors, shares, count, bins, *config);
    return 0;
  } catch (const std::bad_alloc&) {
    return 2;
  }
}

EXPORT void mofo_cpu_shards_sample(mofo::Shards* shards, int64_t least, int64_t shift, int64_t* counts) {
  shards->sample(mofo::Key(least), int(shift), counts);
}

EXPORT void mofo_cpu_shards_moments(mofo::Shards* shards, const int64_t* low, const int64_t* high) {
  shards->update_moments(low, high);
}

EXPORT void mofo_cpu_shards_count(mofo::Shards* shards, const int64_t* low, const int64_t* high, const int64_t* shift,
                                  int64_t* counts) {
  shards->count(low, high, shift, counts);
}

EXPORT int64_t mofo_cpu_shards_tied(mofo::Shards* shards, int64_t block, int64_t key, int64_t* positions,
                                    int64_t capacity) {
  return shards->tied(block, mofo::Key(key), positions, capacity);
}

EXPORT void mofo_cpu_shards_move(mofo::Shards* shards, const int64_t* keys, const int64_t* ties) {
  shards->move(keys, ties);
}
