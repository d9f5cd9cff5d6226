// Runs tasks on several threads: on torch's own OpenMP threads if its runtime has the entry point that compilers call
// (GOMP_parallel, in GNU's and in LLVM's runtime), else on threads that live for one call. A second OpenMP runtime in
// the process would have threads of its own that spin against torch's.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <exception>
#include <thread>
#include <vector>

namespace mofo {

using GompParallel = void (*)(void (*body)(void*), void* data, unsigned threads, unsigned flags);

// Calls a function on every thread of a team, and returns when all have.
class Team {
 public:
  Team(int64_t threads, GompParallel openmp) : threads_(std::max<int64_t>(threads, 1)), openmp_(openmp) {}

  int64_t threads() const { return threads_; }

  // Calls task(i, worker) for each i in [0, count); worker, in [0, threads), says whose scratch memory it may use.
  template <class Task>
  void run(int64_t count, const Task& task) const {
    Shared<Task> shared{task, count};
    const int64_t helpers = std::min(threads_, count) - 1;
    if (helpers <= 0) {
      Shared<Task>::work(&shared);
    } else if (openmp_) {
      openmp_(Shared<Task>::work, &shared, unsigned(helpers + 1), 0);
    } else {
      std::vector<std::thread> workers;
      try {
        for (int64_t i = 0; i < helpers; ++i) workers.emplace_back(Shared<Task>::work, &shared);
      } catch (const std::exception&) {
        // The system has no more threads: those that have started do all the tasks.
      }
      Shared<Task>::work(&shared);
      for (std::thread& worker : workers) worker.join();
    }
  }

 private:
  template <class Task>
  struct Shared {
    const Task& task;
    const int64_t count;
    std::atomic<int64_t> next{0};
    std::atomic<int64_t> workers{0};

    static void work(void* data) {
      Shared& shared = *static_cast<Shared*>(data);
      const int64_t worker = shared.workers.fetch_add(1);
      for (int64_t i; (i = shared.next.fetch_add(1)) < shared.count;) shared.task(i, worker);
    }
  };

  int64_t threads_;
  GompParallel openmp_;
};

}  // namespace mofo
