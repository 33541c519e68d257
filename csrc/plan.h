// How a call's work is cut: into sequences and blocks of channels, and where those are too few
// for the cores, into tiles of time as well.
//
// Split over time, each tile is first reduced to what it does to any state (a product of decays
// and a state), while its operands come into the cache; then it waits for the state before it,
// hands on the state after it, and only then writes its own states from the cache. So memory is
// read once, and a tile waits for one small multiply-add of its predecessor. The state handed on
// never depends on which thread was faster: results are the same bits every time.
//
// Where a state that is kept must keep its bits, no steps are composed: a tile hands on its state
// once it has been run, still in the cache, and its results are written after that.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <cstdlib>
#include <memory>

#include "parallel.h"
#include "vector.h"

#define EXPORT extern "C" __attribute__((visibility("default")))

namespace longrnn {

enum Algorithm { kAuto, kSerial, kParallel };

constexpr int64_t kStreamedBytes = 24 << 20;   // results from here on bypass the cache

// The sizes that suit a job: the piece of a row that one task takes, at least (unless the row is
// shorter) and at most, and one array's share of a tile, all in bytes; and the number of elements
// below which one thread does it all.
struct Grain {
  int64_t narrowest, widest, tile, small;
};
constexpr int64_t kSplitTileBytes = 128 << 10;  // split over time, tiles pay for a hand-over

struct Shape {
  int64_t outer, T, inner;
  int64_t sequences;          // end to end on the time axis
  const int64_t* cu_seqlens;  // their ends; null: one sequence of T steps
  const int64_t* lengths;     // valid steps of each outer; null: T
  bool reverse;

  int64_t count() const { return outer * sequences; }
  int64_t begin(int64_t s) const { return cu_seqlens ? cu_seqlens[s % sequences] : 0; }
  int64_t steps(int64_t s) const {
    if (cu_seqlens) return cu_seqlens[s % sequences + 1] - cu_seqlens[s % sequences];
    return lengths ? lengths[s] : T;
  }
};

// One sequence and block of channels.
struct Task {
  int64_t sequence, outer, row, steps, channel, width;
};

struct Plan {
  int threads;
  int64_t width, blocks;  // channels a task, tasks a sequence
  int64_t tile;           // steps a tile
  bool split;             // over time

  Task task(const Shape& shape, int64_t i) const {
    const int64_t s = i / blocks, channel = i % blocks * width;
    return {s, s / shape.sequences, shape.begin(s), shape.steps(s), channel,
            shape.inner - channel < width ? shape.inner - channel : width};
  }
};

// Where the row of a step lies, in rows: the batch may come first or second.
struct Rows {
  int64_t outer, time;
  Rows(const Shape& shape, bool batch_first)
      : outer(batch_first ? shape.T : 1), time(batch_first ? 1 : shape.outer) {}

  int64_t at(const Task& task, int64_t step) const {
    return task.outer * outer + (task.row + step) * time;
  }
  int64_t at(const Shape& shape, int64_t s, int64_t step) const {
    return s / shape.sequences * outer + (shape.begin(s) + step) * time;
  }
};

inline int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

template <class T>
Plan make_plan(const Shape& shape, Algorithm algorithm, int threads, const Grain& grain) {
  const int64_t count = shape.count();
  int64_t longest = shape.T, total = shape.outer * shape.T;  // steps
  if (shape.lengths || shape.cu_seqlens) {
    longest = total = 0;
    for (int64_t s = 0; s < count; s++) {
      longest = longest > shape.steps(s) ? longest : shape.steps(s);
      total += shape.steps(s);
    }
  }
  if (total * shape.inner < grain.small || threads < 1) threads = 1;
  // A few tasks a thread, of whole cache lines, neither too wide for the first cache nor so
  // narrow that a row's piece is less than a burst from memory.
  const int64_t size = int64_t(sizeof(T)), line = 64 / size > 0 ? 64 / size : 1;
  int64_t blocks = count < 4 * threads && count > 0 ? ceil_div(4 * threads, count) : 1;
  if (threads == 1) blocks = 1;
  int64_t width = ceil_div(shape.inner, blocks);
  if (width * size < grain.narrowest) width = grain.narrowest / size;
  if (width * size > grain.widest) width = grain.widest / size;
  width = ceil_div(width, line) * line;
  if (width > shape.inner) width = shape.inner > 0 ? shape.inner : 1;
  auto tile = [&](int64_t bytes) { return bytes / size / width > 16 ? bytes / size / width : 16; };
  Plan plan{threads, width, ceil_div(shape.inner, width), tile(grain.tile), false};
  // Split where one sequence is more than a thread's fair share and blocks cannot share it, but
  // not where many short ones would each be given as many tiles as the longest has.
  const int64_t split_tile = tile(kSplitTileBytes), most_tiles = ceil_div(longest, split_tile);
  const bool even = count * most_tiles <= 4 * (ceil_div(total, split_tile) + count);
  const bool lopsided = plan.blocks < threads && longest * threads > total && most_tiles > 2;
  plan.split = even && (algorithm == kParallel || (algorithm == kAuto && threads > 1 && lopsided));
  if (plan.split) plan.tile = split_tile;
  return plan;
}

// Memory of this thread that outlives the call; `kSlot` tells apart two uses at one time.
template <class T, int kSlot>
T* thread_buffer(int64_t count) {
  struct Free {
    void operator()(void* p) const { std::free(p); }
  };
  thread_local std::unique_ptr<void, Free> buffer;
  thread_local size_t capacity = 0;
  const size_t bytes = (size_t(count) * sizeof(T) + kVectorBytes) / kVectorBytes * kVectorBytes;
  if (bytes > capacity) {
    buffer.reset(std::aligned_alloc(kVectorBytes, bytes));
    if (!buffer) std::abort();
    capacity = bytes;
  }
  return static_cast<T*>(buffer.get());
}

// What is done to every tile of every task.
template <class Tile>
struct Work {
  using T = typename Tile::Number;
  int arrays;   // of a tile's size, that `load` may use as scratch
  bool down;    // whether time runs down in memory
  bool singly;  // whether no step may be composed with another

  Work(int arrays, bool down, bool singly) : arrays(arrays), down(down), singly(singly) {}
  // The state before the first tile.
  virtual void start(const Task& task, T* carry) const = 0;
  // The tile of `rows` steps from `begin`, ready for run and reduce of scan.h.
  virtual Tile load(const Task& task, int64_t begin, int64_t rows, T* scratch) const = 0;
  // Runs the tile: from the state before it to the state after it.
  virtual void advance(const Task& task, int64_t begin, Tile tile, T* carry) const = 0;
  // Writes what is left to write of a tile that was run from the state `before`.
  virtual void write(const Task& task, int64_t begin, Tile tile, const T* before) const = 0;
  // The state after the last tile.
  virtual void finish(const Task& task, const T* carry) const = 0;
};

template <class Tile>
__attribute__((noinline)) void execute(const Plan& plan, const Shape& shape, const Work<Tile>& job) {
  using T = typename Tile::Number;
  const int64_t tasks = shape.count() * plan.blocks, scratch_size = job.arrays * plan.tile * plan.width;
  auto tile_begin = [&](const Task& task, int64_t k, int64_t& rows) {
    const int64_t first = k * plan.tile;
    rows = task.steps - first < plan.tile ? task.steps - first : plan.tile;
    return job.down ? task.steps - first - rows : first;
  };

  if (!plan.split) {
    // Neighbours in one claim: short sequences cost less than claiming them would.
    const int64_t run = ceil_div(tasks, 16 * plan.threads);
    for_each_claimed(ceil_div(tasks, run > 0 ? run : 1), plan.threads, [&](int64_t claim) {
      T* scratch = thread_buffer<T, 0>(scratch_size + 2 * plan.width);
      T *carry = scratch + scratch_size, *before = carry + plan.width;
      for (int64_t i = claim * run; i < tasks && i < (claim + 1) * run; i++) {
        const Task task = plan.task(shape, i);
        job.start(task, carry);
        for (int64_t k = 0; k * plan.tile < task.steps; k++) {
          int64_t rows, begin = tile_begin(task, k, rows);
          const Tile tile = job.load(task, begin, rows, scratch);
          std::copy_n(carry, task.width, before);
          job.advance(task, begin, tile, carry);
          job.write(task, begin, tile, before);
        }
        job.finish(task, carry);
      }
      stream_fence();
    });
    return;
  }

  int64_t tiles = 1;
  for (int64_t i = 0; i < tasks; i++) {
    const int64_t own = ceil_div(plan.task(shape, i).steps, plan.tile);
    tiles = tiles > own ? tiles : own;
  }
  auto ready = std::make_unique<std::atomic<int>[]>(tiles * tasks);
  auto handed_on = std::make_unique<T[]>(tiles * tasks * plan.width);
  for_each_claimed(tiles * tasks, plan.threads, [&](int64_t item) {
    const int64_t k = item / tasks, i = item % tasks;
    const Task task = plan.task(shape, i);
    const int64_t own = ceil_div(task.steps, plan.tile);
    if (k > 0 && k >= own) return;
    T* scratch = thread_buffer<T, 0>(scratch_size + 4 * plan.width);
    T *carry = scratch + scratch_size, *before = carry + plan.width,
      *partial = before + plan.width, *product = partial + plan.width;
    auto hand_on = [&](const auto& state) {
      T* after = &handed_on[item * plan.width];
      for (int64_t c = 0; c < task.width; c++) after[c] = state(c);
      ready[item].store(1, std::memory_order_release);
    };
    int64_t rows = 0, begin = own > 0 ? tile_begin(task, k, rows) : 0;
    const Tile tile = job.load(task, begin, rows, scratch);
    const bool composed = k > 0 && !job.singly;
    if (k == 0) {
      job.start(task, before);
    } else {
      if (composed) {
        std::fill_n(partial, task.width, T(0));
        std::fill_n(product, task.width, T(1));
        if (k + 1 < own) reduce(tile, job.down, partial, product);
      }
      spin_until([&] { return ready[item - tasks].load(std::memory_order_acquire) != 0; });
      std::copy_n(&handed_on[(item - tasks) * plan.width], task.width, before);
    }
    if (composed) hand_on([&](int64_t c) { return product[c] * before[c] + partial[c]; });
    std::copy_n(before, task.width, carry);
    if (rows > 0) job.advance(task, begin, tile, carry);
    if (!composed) hand_on([&](int64_t c) { return carry[c]; });
    if (rows > 0) job.write(task, begin, tile, before);
    if (k + 1 >= own) job.finish(task, carry);
    stream_fence();
  });
}

// The same for a job by its type, so that `execute` is compiled once and not for every job.
template <class Job>
void execute_job(const Plan& plan, const Shape& shape, const Job& job) {
  using Tile = typename Job::Tile;
  using T = typename Tile::Number;
  struct OfJob final : Work<Tile> {
    const Job& job;
    explicit OfJob(const Job& job) : Work<Tile>{Job::kArrays, job.down(), Job::kSingly}, job(job) {}
    void start(const Task& task, T* carry) const override { job.start(task, carry); }
    Tile load(const Task& task, int64_t begin, int64_t rows, T* scratch) const override {
      return job.load(task, begin, rows, scratch);
    }
    void advance(const Task& task, int64_t begin, Tile tile, T* carry) const override {
      job.advance(task, begin, tile, carry);
    }
    void write(const Task& task, int64_t begin, Tile tile, const T* before) const override {
      job.write(task, begin, tile, before);
    }
    void finish(const Task& task, const T* carry) const override { job.finish(task, carry); }
  };
  execute(plan, shape, OfJob(job));
}

}  // namespace longrnn
