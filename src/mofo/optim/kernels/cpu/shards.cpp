// The local phases of a step of shards, each for all tensors in one call. Between the phases the processes add up what
// they have counted (distributed/search.py): no process knows the threshold of a block alone.
//
// As in the step of whole tensors (block.cpp), the one pass over all entries updates the moments, moves what is above
// the bracket, and keeps what is inside: the keys, in which is counted, and the candidates, which may move later.
// Nothing of the tensors is read again but parameters that move. Where that cannot be (memory was used up, the bracket
// begins at 0 or has misled, or weight decay is of all entries), keys are computed again from the moments.
#include "shards.h"

#include <algorithm>
#include <memory>
#include <mutex>
#include <new>
#include <vector>

#include "piece.h"
#include "threads.h"

namespace mofo {
namespace {

constexpr int64_t PIECE = 1 << 16;  // entries that a thread takes at a time
constexpr int64_t ROOM = 12;   // bytes for each entry that moves: 4 of one that moves at once, and 16 of a candidate,
                               // of which there are half as many
constexpr int64_t LEAST = 64;  // entries for which a block has room at least

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
      count_into(piece, worker, counts, bins_,
                 [&](int64_t* own) { piece.count_sample(kernel(), least, shift, bins_, own); });
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
      piece.update_moments(kernel(), bracket, unused_[size_t(worker)]);
    });
  }

  void count(const int64_t* low, const int64_t* high, const int64_t* shift, int64_t* counts) {
    for_pieces([&](Piece& piece, int64_t worker) {
      const int64_t block = piece.block;
      if (low[block] > HIGHEST) return;
      const Bracket bracket{Key(low[block]), Key(std::min<int64_t>(high[block], HIGHEST))};
      count_into(piece, worker, counts, bins_ + 1,
                 [&](int64_t* own) { piece.count_bins(kernel(), bracket, int(shift[block]), bins_, own); });
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
      if (are_cut(piece)) piece.ties = piece.count_equal(kernel(), Key(keys[piece.block]));
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
    for_pieces([&](Piece& piece, int64_t) { piece.move(kernel(), Key(keys[piece.block])); });
  }

 private:
  Team team() const { return Team(config_.threads, config_.openmp); }

  const Kernel& kernel() const { return *config_.kernel; }

  void add_pieces(const Tensor& t, const Share& share) {
    for (int64_t block = 0; block < t.blocks; ++block) {
      for (int64_t offset = 0; offset < t.n; offset += PIECE) {
        const int64_t length = std::min(PIECE, t.n - offset);
        pieces_.push_back({&t, share.first + block, block * t.n + offset, length, share.stride, offset, length == t.n});
      }
    }
  }

  static int64_t candidates(int64_t expected) { return expected * ROOM / int64_t(sizeof(Candidate)) + 1; }

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
