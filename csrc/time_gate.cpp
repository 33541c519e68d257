// How far each unit is open at each stamp, and the gradients of that, in one pass each; the
// backward computes the phases again. Definition in words: src/longrnn/ops/time_gate/plain.py.
#include "clock.h"
#include "number.h"
#include "parallel.h"
#include "plan.h"

using namespace longrnn;

namespace {

// Calls chunk(i, first, last) for all chunks of `length` stamps, shared by threads.
template <class Chunk>
void for_each_chunk(int64_t count, int64_t length, int threads, const Chunk& chunk) {
  for_each_claimed(ceil_div(count, length), threads, [&](int64_t i) {
    const int64_t first = i * length;
    chunk(i, first, first + length < count ? first + length : count);
  });
}

}  // namespace

EXPORT void longrnn_time_gate_forward(int dtype, int64_t count, int64_t n, int64_t length,
                                      int threads, double leak, const double* times,
                                      const void* period, const void* shift, const void* on_ratio,
                                      void* openness) {
  with_real(dtype, [&](auto number) {
    using T = decltype(number);
    auto in = [](const void* p) { return static_cast<const T*>(p); };
    const Clock<T> clock(n, in(period), in(shift), in(on_ratio), leak);
    T* out = static_cast<T*>(openness);
    for_each_chunk(count, length, threads, [&](int64_t, int64_t first, int64_t last) {
      T* phase = thread_buffer<T, 0>(padded<T>(n));
      for (int64_t i = first; i < last; i++) {
        clock.phases(times[i], phase, nullptr);
        for (int64_t j = 0; j < n; j += kLanes<T>)
          store_some<T>(out + i * n + j, clock.opening(phase, j).k, n - j);
      }
    });
  });
}

// `sums` are those of each chunk: gradients of period, shift and on_ratio, of n each.
EXPORT void longrnn_time_gate_backward(int dtype, int64_t count, int64_t n, int64_t length,
                                       int threads, double leak, const double* times,
                                       const void* period, const void* shift,
                                       const void* on_ratio, const void* grad, double* grad_times,
                                       void* sums) {
  with_real(dtype, [&](auto number) {
    using T = decltype(number);
    using V = Vector<T>;
    auto in = [](const void* p) { return static_cast<const T*>(p); };
    const Clock<T> clock(n, in(period), in(shift), in(on_ratio), leak);
    const int64_t block = padded<T>(n);
    for_each_chunk(count, length, threads, [&](int64_t chunk, int64_t first, int64_t last) {
      T* phase = thread_buffer<T, 0>(5 * block);
      T *cycles = phase + block, *sum = cycles + block;
      __builtin_memset(sum, 0, 3 * block * sizeof(T));
      for (int64_t i = first; i < last; i++) {
        clock.phases(times[i], phase, cycles);
        V by_time = {};
        for (int64_t j = 0; j < n; j += kLanes<T>) {
          const V by_k = load_some<T>(in(grad) + i * n + j, n - j);
          const auto opening = clock.opening(phase, j);
          // The phase moves by 1 / period with the time, and against the shift.
          const V by_since = by_k * opening.slope * load(&clock.narrow_frequency[j]);
          by_time += by_since;
          store(sum + j, load(sum + j) - by_since * load(cycles + j));
          store(sum + block + j, load(sum + block + j) - by_since);
          store(sum + 2 * block + j, load(sum + 2 * block + j) + by_k * opening.by_ratio);
        }
        grad_times[i] = sum_of<T>(by_time);
      }
      T* out = static_cast<T*>(sums) + 3 * chunk * n;
      for (int b = 0; b < 3; b++) store_row(out + b * n, sum + b * block, n);
    });
  });
}
