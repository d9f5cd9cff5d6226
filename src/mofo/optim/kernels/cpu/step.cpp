// One step of MoFO on a CPU, for all tensors in one call.
//
// A block is a task for one thread, or several small ones are; the entries of a large one are shared out between all
// threads, stage by stage (block.cpp). Neither that nor the sample can change a result: a guess decides where to look,
// never what is found.
#include "step.h"

#include <algorithm>
#include <memory>
#include <new>
#include <vector>

#include "block.h"
#include "overlap.h"
#include "select.h"
#include "threads.h"

namespace mofo {
namespace {

constexpr int64_t TASK = 1 << 16;             // entries that the blocks of a task have at least together
constexpr int64_t LEAST_SHARED = 1 << 17;     // entries below which sharing a block out costs more than it gains
constexpr int64_t LEAST_JOURNALED = 1 << 20;  // entries of the largest block for which journals have memory

// Consecutive blocks of a tensor.
struct Task {
  const Tensor* tensor;
  int64_t first, count;

  int64_t entries() const { return tensor->n * count; }
  Next begin() const { return {tensor, first * tensor->n}; }
};

struct Plan {
  std::vector<Task> shared;  // one block each
  std::vector<Task> alone;
};

Plan make_plan(const Config& s, const Tensor* tensors, int64_t count) {
  int64_t total = 0;
  for (int64_t i = 0; i < count; ++i) total += tensors[i].n * tensors[i].blocks;
  const int64_t least = std::max(LEAST_SHARED, total / (16 * s.threads));
  Plan plan;
  for (int64_t i = 0; i < count; ++i) {
    const Tensor& t = tensors[i];
    if (t.n == 0) continue;
    const bool share = s.threads > 1 && t.n > least;
    const int64_t together = share ? 1 : std::max<int64_t>(TASK / t.n, 1);
    for (int64_t first = 0; first < t.blocks; first += together) {
      (share ? plan.shared : plan.alone).push_back({&t, first, std::min(together, t.blocks - first)});
    }
  }
  // The largest first, so that no thread begins one when the others end.
  std::stable_sort(plan.alone.begin(), plan.alone.end(),
                   [](const Task& a, const Task& b) { return a.entries() > b.entries(); });
  return plan;
}

template <class T>
std::unique_ptr<T[]> allocate(int64_t entries) {
  return std::unique_ptr<T[]>(new T[size_t(entries)]);  // not initialised: unused pages are not touched
}

// Scratch memory of teams that work side by side, each on some of the tasks. The memory of the journals is passed in.
class Memory {
 public:
  Memory(const Config& s, const std::vector<Task>& tasks, int64_t teams, int64_t threads, Candidate* candidates,
         int64_t capacity)
      : threads_(threads), candidates_(candidates), capacity_(capacity / std::max<int64_t>(teams * threads, 1)) {
    for (const Task& task : tasks) {
      keys_each_ = std::max(keys_each_, keys_needed(s, *task.tensor));
      ranges_each_ = std::max(ranges_each_, ranges(task.tensor->n));
    }
    numbers_each_ = std::max((BINS + 1) * threads, ranges_each_);
    keys_ = allocate<Key>(keys_each_ * teams);
    numbers_ = allocate<int64_t>(numbers_each_ * teams);
    journals_ = allocate<Journal>((ranges_each_ + threads) * teams);
  }

  Scratch of_team(int64_t team) const {
    Journal* journals = journals_.get() + team * (ranges_each_ + threads_);
    return {keys_.get() + team * keys_each_,
            numbers_.get() + team * numbers_each_,
            journals,
            candidates_ + team * threads_ * capacity_,
            capacity_,
            journals + ranges_each_};
  }

 private:
  const int64_t threads_;  // of a team
  Candidate* const candidates_;
  const int64_t capacity_;  // of a thread's part
  int64_t keys_each_ = 0, ranges_each_ = 0, numbers_each_ = 0;
  std::unique_ptr<Key[]> keys_;
  std::unique_ptr<int64_t[]> numbers_;
  std::unique_ptr<Journal[]> journals_;
};

void step(const Config& s, const Tensor* tensors, int64_t count) {
  const Plan plan = make_plan(s, tensors, count);
  const int64_t workers = std::min<int64_t>(s.threads, int64_t(plan.alone.size()));
  int64_t largest = LEAST_JOURNALED;
  for (int64_t i = 0; i < count; ++i) largest = std::max(largest, tensors[i].n);
  // All memory is allocated here: once the first tensor is written nothing can fail.
  const int64_t capacity = largest * int64_t(sizeof(float)) / s.journal_share / int64_t(sizeof(Candidate));
  const auto candidates = allocate<Candidate>(capacity);
  const Memory shared(s, plan.shared, plan.shared.empty() ? 0 : 1, s.threads, candidates.get(), capacity);
  const Memory own(s, plan.alone, workers, 1, candidates.get(), capacity);

  const Team team(s.threads, s.openmp), alone(1, nullptr);
  for (const Task& task : plan.shared) step_block(s, team, *task.tensor, task.first, shared.of_team(0), {});
  const int64_t tasks = int64_t(plan.alone.size());
  team.run_ahead(tasks, [&](int64_t i, int64_t following, int64_t worker) {
    const Task& task = plan.alone[size_t(i)];
    const Tensor& t = *task.tensor;
    const Next after = following < tasks ? plan.alone[size_t(following)].begin() : Next{};
    const int64_t end = task.first + task.count;
    for (int64_t block = task.first; block < end; ++block) {
      const Next next = block + 1 < end ? Next{&t, (block + 1) * t.n} : after;
      step_block(s, alone, t, block, own.of_team(worker), next);
    }
  });
}

}  // namespace
}  // namespace mofo

EXPORT int mofo_cpu_step(const mofo::Tensor* tensors, int64_t count, const mofo::Config* config) {
  try {
    if (mofo::may_overlap(tensors, count)) return 1;
    mofo::step(*config, tensors, count);
    return 0;
  } catch (const std::bad_alloc&) {
    return 2;
  }
}
