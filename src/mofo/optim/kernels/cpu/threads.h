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
    std::atomic<int64_t> next{0};
    on_threads(count, [&](int64_t worker) {
      for (int64_t i; (i = next.fetch_add(1)) < count;) task(i, worker);
    });
  }

  // Calls task(i, following, worker) likewise. A thread takes what follows before it begins the present one, so that it
  // knows what to fetch; `following` is at least `count` where nothing does.
  template <class Task>
  void run_ahead(int64_t count, const Task& task) const {
    std::atomic<int64_t> next{0};
    on_threads(count, [&](int64_t worker) {
      for (int64_t i = next.fetch_add(1), following; i < count; i = following) {
        following = next.fetch_add(1);
        task(i, following, worker);
      }
    });
  }

 private:
  // Calls work(worker) on as many threads as there are, but at most `most`, and on one at least: each of them works
  // until nothing is left.
  template <class Work>
  void on_threads(int64_t most, const Work& work) const {
    Shared<Work> shared{work};
    const int64_t helpers = std::min(threads_, most) - 1;
    if (helpers <= 0) {
      Shared<Work>::call(&shared);
    } else if (openmp_) {
      openmp_(Shared<Work>::call, &shared, unsigned(helpers + 1), 0);
    } else {
      std::vector<std::thread> workers;
      try {
        for (int64_t i = 0; i < helpers; ++i) workers.emplace_back(Shared<Work>::call, &shared);
      } catch (const std::exception&) {
        // The system has no more threads: those that have started do all the work.
      }
      Shared<Work>::call(&shared);
      for (std::thread& worker : workers) worker.join();
    }
  }

  template <class Work>
  struct Shared {
    const Work& work;
    std::atomic<int64_t> workers{0};

    static void call(void* data) {
      Shared& shared = *static_cast<Shared*>(data);
      shared.work(shared.workers.fetch_add(1));
    }
  };

  int64_t threads_;
  GompParallel openmp_;
};

}  // namespace mofo
