// Products of the rows of x with the weights of those units that are open at them. A unit's open
// rows are few and lie together, so that they share its weights in registers. Definition in words:
// src/longrnn/ops/open_linear.py.
#include <vector>

#include "clock.h"
#include "number.h"
#include "parallel.h"
#include "plan.h"
#include "product.h"

namespace longrnn {
namespace {

constexpr int64_t kRows = 128;  // of a chunk: they and the weights take turns in the second cache
constexpr int kTogether = kVectorBytes == 64 ? 4 : 2;  // rows whose sums fit registers

template <class T>
struct OpenCall {
  int64_t m, n;
  const T *x, *weight, *bias, *openness;
  T* out;
};

// Gates g n + j of the rows at R offsets from the first.
template <int R, int G, class T>
void multiply_rows(const OpenCall<T>& call, int64_t j, int64_t first, const uint8_t* offsets) {
  using V = Vector<T>;
  const int64_t m = call.m, n = call.n;
  int64_t rows[R];
  for (int r = 0; r < R; r++) rows[r] = first + offsets[r];
  V sum[R][G] = {};
  for (int64_t c = 0; c < m; c += kLanes<T>) {
    V weight[G];
    for (int g = 0; g < G; g++) weight[g] = load_some<T>(call.weight + (g * n + j) * m + c, m - c);
    for (int r = 0; r < R; r++) {
      const V x = load_some<T>(call.x + rows[r] * m + c, m - c);
      for (int g = 0; g < G; g++) sum[r][g] += x * weight[g];
    }
  }
  for (int r = 0; r < R; r++)
    for (int g = 0; g < G; g++)
      call.out[(rows[r] * G + g) * n + j] =
          sum_of<T>(sum[r][g]) + (call.bias ? call.bias[g * n + j] : T(0));
}

template <int G, class T>
void multiply_open(const OpenCall<T>& call, int64_t first, int64_t last) {
  const int64_t n = call.n;
  thread_local std::vector<uint8_t> open, counts;  // offsets of each unit's rows, and how many
  open.resize(n * kRows);
  counts.assign(n, 0);
  fill_zero(call.out + first * G * n, (last - first) * G * n);
  for (int64_t i = first; i < last; i++)
    for (int64_t j = 0; j < n; j += kLanes<T>) {
      uint64_t lanes = lanes_not_zero<T>(load_some<T>(call.openness + i * n + j, n - j));
      for (; lanes; lanes &= lanes - 1) {
        const int64_t unit = j + __builtin_ctzll(lanes);
        open[unit * kRows + counts[unit]++] = uint8_t(i - first);
      }
    }
  for (int64_t j = 0; j < n; j++) {
    const uint8_t* offsets = &open[j * kRows];
    int64_t i = 0;
    for (; i + kTogether <= counts[j]; i += kTogether)
      multiply_rows<kTogether, G>(call, j, first, offsets + i);
    for (; i < counts[j]; i++) multiply_rows<1, G>(call, j, first, offsets + i);
  }
}

}  // namespace
}  // namespace longrnn

using namespace longrnn;

EXPORT void longrnn_open_linear(int dtype, int64_t count, int64_t m, int64_t n, int gates,
                                int threads, const void* x, const void* weight, const void* bias,
                                const void* openness, void* out) {
  with_real(dtype, [&](auto number) {
    using T = decltype(number);
    auto in = [](const void* p) { return static_cast<const T*>(p); };
    const OpenCall<T> call{m, n, in(x), in(weight), in(bias), in(openness), static_cast<T*>(out)};
    for_each_claimed(ceil_div(count, kRows), threads, [&](int64_t chunk) {
      const int64_t first = chunk * kRows, last = first + kRows < count ? first + kRows : count;
      switch (gates) {
        case 1: return multiply_open<1>(call, first, last);
        case 2: return multiply_open<2>(call, first, last);
        case 3: return multiply_open<3>(call, first, last);
        case 4: return multiply_open<4>(call, first, last);
        default: __builtin_trap();
      }
    });
  });
}
