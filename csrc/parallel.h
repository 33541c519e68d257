// One parallel region a call, on the OpenMP threads that torch already runs.
#pragma once

#include <atomic>
#include <cstdint>
#include <thread>
#include <vector>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace longrnn {

// libgomp's entry point for a parallel region, in the copy that torch loaded; see memory.cpp.
using OpenMpParallel = void (*)(void (*)(void*), void*, unsigned, unsigned);
extern OpenMpParallel openmp_parallel;
extern int (*openmp_num_threads)();

// Calls body() once on each of `threads` threads (fewer where OpenMP grants fewer).
template <class Body>
void on_threads(int threads, Body& body) {
  auto enter = [](void* p) { (*static_cast<Body*>(p))(); };
  if (threads <= 1) {
    body();
  } else if (openmp_parallel) {
    openmp_parallel(enter, &body, unsigned(threads), 0);
  } else {
    std::vector<std::thread> helpers;
    for (int i = 1; i < threads; i++) helpers.emplace_back(enter, &body);
    body();
    for (auto& helper : helpers) helper.join();
  }
}

// How many threads run the body that calls this, of on_threads(asked, body).
inline int threads_here(int asked) {
  return asked > 1 && openmp_parallel ? openmp_num_threads() : asked;
}

// Calls item(i) for i in [0, count). Items are claimed in ascending order, so an item may wait
// for an earlier one: that one is done, or a running thread holds it.
template <class Item>
void for_each_claimed(int64_t count, int threads, const Item& item) {
  std::atomic<int64_t> next{0};
  auto body = [&] {
    for (int64_t i; (i = next.fetch_add(1, std::memory_order_relaxed)) < count;) item(i);
  };
  on_threads(int(threads < count ? threads : count), body);
}

template <class Condition>
void spin_until(const Condition& condition) {
  for (int spins = 0; !condition(); spins++) {
    if (spins > 1000) {
      std::this_thread::yield();  // the other thread may be waiting for this core
    } else {
#if defined(__x86_64__)
      _mm_pause();
#endif
    }
  }
}

// Where all threads of a region meet, as often as they like.
class Meeting {
 public:
  void wait_for_all(int threads) {
    const int64_t all = (arrived_.load(std::memory_order_acquire) / threads + 1) * threads;
    if (arrived_.fetch_add(1, std::memory_order_acq_rel) + 1 < all)
      spin_until([&] { return arrived_.load(std::memory_order_acquire) >= all; });
  }

 private:
  std::atomic<int64_t> arrived_{0};
};

}  // namespace longrnn
