// h_t = a_t * h_{t-1} + x_t over (outer, T, inner), and its gradient, in one pass each.

#include "number.h"
#include "parallel.h"
#include "plan.h"
#include "scan.h"

namespace longrnn {
namespace {

// An operand as (outer, T, inner) with any strides, in elements; channels lie 0 or 1 apart.
template <class Stored>
struct Operand {
  const Stored* data;
  int64_t outer, time, channel;
};

template <class To, class From>
void convert_row(To* to, const From* from, int64_t width) {
  int64_t c = 0;
  if constexpr (!std::is_same_v<To, From>)  // one of them is a float, the other has 16 bits
    for (; c + kLanes<float> <= width; c += kLanes<float>)
      store_as<float>(to + c, load_as<float>(from + c));
  for (; c < width; c++) to[c] = To(from[c]);
}

// A tile's worth of an operand in the type of computation: where it lies, or a copy.
template <class Stored, class T>
const T* rows_of(const Operand<Stored>& x, int64_t offset, int64_t rows, int64_t width, T* copy,
                 int64_t& row) {
  if constexpr (std::is_same_v<Stored, T>) {
    const bool dense = x.time == width || width * 2 > kLanes<T>;  // few channels want dense rows
    if (x.channel == 1 && dense) {
      row = x.time;
      return x.data + offset;
    }
  }
  row = width;
  for (int64_t r = 0; r < rows; r++) {
    const Stored* from = x.data + offset + r * x.time;
    T* to = copy + r * width;
    if (x.channel == 1)
      convert_row(to, from, width);
    else
      for (int64_t c = 0; c < width; c++) to[c] = T(*from);
  }
  return copy;
}

template <class T, class Stored>
void write_rows(Stored* out, int64_t row, const T* copy, int64_t rows, int64_t width) {
  for (int64_t r = 0; r < rows; r++) convert_row(out + r * row, copy + r * width, width);
}

template <class Stored>
struct Forward {
  using T = Compute<Stored>;
  using Tile = ForwardTile<T>;
  static constexpr int kArrays = 3;  // a, x, h
  static constexpr bool kSingly = false;
  bool down() const { return shape.reverse; }
  const Shape& shape;
  Operand<Stored> a, x;
  const Stored* initial;
  Stored* h;
  bool streamed;

  void start(const Task& task, T* carry) const {
    const Stored* from = initial ? initial + task.sequence * shape.inner + task.channel : nullptr;
    for (int64_t c = 0; c < task.width; c++) carry[c] = from ? T(from[c]) : T(0);
  }

  ForwardTile<T> load(const Task& task, int64_t begin, int64_t rows, T* scratch) const {
    ForwardTile<T> tile{rows, task.width, nullptr, 0, nullptr, 0, nullptr, 0};
    const int64_t size = rows * task.width, t = task.row + begin;
    tile.a = rows_of(a, task.outer * a.outer + t * a.time + task.channel * a.channel, rows,
                     task.width, scratch, tile.a_row);
    tile.x = rows_of(x, task.outer * x.outer + t * x.time + task.channel, rows, task.width,
                     scratch + size, tile.x_row);
    if constexpr (std::is_same_v<Stored, T>) {
      tile.h = h + (task.outer * shape.T + t) * shape.inner + task.channel;
      tile.h_row = shape.inner;
    } else {
      tile.h = scratch + 2 * size;
      tile.h_row = task.width;
    }
    return tile;
  }

  void advance(const Task&, int64_t, ForwardTile<T> tile, T* carry) const {
    run(tile, shape.reverse, streamed, carry);
  }

  void write(const Task& task, int64_t begin, ForwardTile<T> tile, const T*) const {
    if constexpr (!std::is_same_v<Stored, T>)
      write_rows(h + (task.outer * shape.T + task.row + begin) * shape.inner + task.channel,
                 shape.inner, tile.h, tile.rows, task.width);
  }

  void finish(const Task&, const T*) const {}
};

template <class Stored>
struct Backward {
  using T = Compute<Stored>;
  using Tile = AdjointTile<T>;
  static constexpr int kArrays = 5;  // a, y, h before, s, grad_a
  static constexpr bool kSingly = false;
  bool down() const { return !shape.reverse; }
  const Shape& shape;
  Operand<Stored> a, y;
  const Stored *h, *initial;
  Stored *grad_a, *grad_x, *grad_initial;
  bool streamed;

  void start(const Task& task, T* carry) const {
    for (int64_t c = 0; c < task.width; c++) carry[c] = T(0);
  }

  AdjointTile<T> load(const Task& task, int64_t begin, int64_t rows, T* scratch) const {
    AdjointTile<T> tile{};
    tile.rows = rows;
    tile.width = task.width;
    const int64_t size = rows * task.width, t = task.row + begin;
    tile.a = rows_of(a, task.outer * a.outer + t * a.time + task.channel * a.channel, rows,
                     task.width, scratch, tile.a_row);
    tile.y = rows_of(y, task.outer * y.outer + t * y.time + task.channel, rows, task.width,
                     scratch + size, tile.y_row);
    const int64_t at = (task.outer * shape.T + t) * shape.inner + task.channel;
    if constexpr (std::is_same_v<Stored, T>) {
      tile.s = grad_x + at;
      tile.s_row = tile.grad_a_row = tile.before_row = shape.inner;
      if (grad_a) {
        tile.grad_a = grad_a + at;
        tile.before = h + at + (shape.reverse ? shape.inner : -shape.inner);
      }
    } else {
      tile.s = scratch + 3 * size;
      tile.s_row = tile.grad_a_row = tile.before_row = task.width;
      if (grad_a) {
        tile.grad_a = scratch + 4 * size;
        T* before = scratch + 2 * size;
        tile.before = before;
        for (int64_t r = 0; r < rows; r++) {
          const int64_t from = r + begin + (shape.reverse ? 1 : -1);
          if (from >= 0 && from < task.steps)
            convert_row(before + r * task.width,
                        h + at + (r + (shape.reverse ? 1 : -1)) * shape.inner, task.width);
        }
      }
    }
    return tile;
  }

  void advance(const Task& task, int64_t begin, AdjointTile<T> tile, T* carry) const {
    const bool down = !shape.reverse;
    // The sequence's first step is the tile's last: what comes before it is the initial state.
    const int64_t edge = shape.reverse ? tile.rows - 1 : 0;
    const bool has_edge = begin + edge == (shape.reverse ? task.steps - 1 : 0);
    if (!has_edge || !grad_a) {
      run(tile, down, streamed, carry);
    } else {
      const T* before_first = first_state(task);
      AdjointTile<T> rest = tile, first = tile;
      rest.rows--;
      if (down) advance(rest, 1);
      run(rest, down, streamed, carry);
      first.rows = 1;
      advance(first, edge);
      first.before = before_first;
      run(first, down, false, carry);
    }
  }

  void write(const Task& task, int64_t begin, AdjointTile<T> tile, const T*) const {
    if constexpr (!std::is_same_v<Stored, T>) {
      const int64_t at =
          (task.outer * shape.T + task.row + begin) * shape.inner + task.channel;
      write_rows(grad_x + at, shape.inner, tile.s, tile.rows, task.width);
      if (grad_a) write_rows(grad_a + at, shape.inner, tile.grad_a, tile.rows, task.width);
    }
  }

  const T* first_state(const Task& task) const {
    T* row = thread_buffer<T, 1>(task.width);
    const Stored* from = initial ? initial + task.sequence * shape.inner + task.channel : nullptr;
    for (int64_t c = 0; c < task.width; c++) row[c] = from ? T(from[c]) : T(0);
    return row;
  }

  static void advance(AdjointTile<T>& tile, int64_t rows) {
    tile.a += rows * tile.a_row;
    tile.y += rows * tile.y_row;
    tile.s += rows * tile.s_row;
    if (tile.before) {
      tile.before += rows * tile.before_row;
      tile.grad_a += rows * tile.grad_a_row;
    }
  }

  void finish(const Task& task, const T* carry) const {
    Stored* out = grad_initial + task.sequence * shape.inner + task.channel;
    for (int64_t c = 0; c < task.width; c++) out[c] = Stored(carry[c]);
  }
};

// Whether results are written past the cache: worth it where they are larger than it, possible
// where every row of every task starts on a vector.
template <class T>
bool streams(const Shape& shape, const Plan& plan, const void* out, const void* out2) {
  const int64_t bytes = shape.outer * shape.T * shape.inner * int64_t(sizeof(T));
  auto aligned = [](int64_t n) { return n % kVectorBytes == 0; };
  return kVectorised<T> && bytes >= kStreamedBytes && aligned(int64_t(out)) &&
         aligned(int64_t(out2)) && aligned(shape.inner * int64_t(sizeof(T))) &&
         aligned(plan.width * int64_t(sizeof(T)));
}

// Whole rows where possible: a burst from memory should be long, a page touched by one thread.
constexpr Grain kGrain{1 << 10, 8 << 10, 64 << 10, 1 << 16};

template <class Stored>
void forward(const Shape& shape, Algorithm algorithm, int threads, const void* a,
             const int64_t* a_strides, const void* x, const void* initial, void* h) {
  using T = Compute<Stored>;
  const Plan plan = make_plan<T>(shape, algorithm, threads, kGrain);
  const bool streamed = std::is_same_v<Stored, T> && streams<T>(shape, plan, h, nullptr);
  Forward<Stored> job{shape,
                      {static_cast<const Stored*>(a), a_strides[0], a_strides[1], a_strides[2]},
                      {static_cast<const Stored*>(x), shape.T * shape.inner, shape.inner, 1},
                      static_cast<const Stored*>(initial),
                      static_cast<Stored*>(h),
                      streamed};
  execute_job(plan, shape, job);
}

template <class Stored>
void backward(const Shape& shape, Algorithm algorithm, int threads, const void* y, const void* a,
              const int64_t* a_strides, const void* h, const void* initial, void* grad_a,
              void* grad_x, void* grad_initial) {
  using T = Compute<Stored>;
  const Plan plan = make_plan<T>(shape, algorithm, threads, kGrain);
  const bool streamed = std::is_same_v<Stored, T> && streams<T>(shape, plan, grad_x, grad_a);
  Backward<Stored> job{shape,
                       {static_cast<const Stored*>(a), a_strides[0], a_strides[1], a_strides[2]},
                       {static_cast<const Stored*>(y), shape.T * shape.inner, shape.inner, 1},
                       static_cast<const Stored*>(h),
                       static_cast<const Stored*>(initial),
                       static_cast<Stored*>(grad_a),
                       static_cast<Stored*>(grad_x),
                       static_cast<Stored*>(grad_initial),
                       streamed};
  execute_job(plan, shape, job);
}

template <class Call>
void with_dtype(int dtype, Call&& call) {
  switch (dtype) {
    case kComplex64: return call(Complex<float>());
    case kComplex128: return call(Complex<double>());
    default: with_floating(dtype, call);
  }
}

}  // namespace
}  // namespace longrnn

using namespace longrnn;

EXPORT void longrnn_linear_recurrence_forward(
    int dtype, int64_t outer, int64_t T, int64_t inner, const int64_t* cu_seqlens,
    int64_t sequences, int reverse, int algorithm, int threads, const void* a, int64_t a_outer,
    int64_t a_time, int64_t a_channel, const void* x, const void* initial, void* h) {
  const Shape shape{outer, T, inner, sequences, cu_seqlens, nullptr, bool(reverse)};
  const int64_t strides[] = {a_outer, a_time, a_channel};
  with_dtype(dtype, [&](auto stored) {
    forward<decltype(stored)>(shape, Algorithm(algorithm), threads, a, strides, x, initial, h);
  });
}

EXPORT void longrnn_linear_recurrence_backward(
    int dtype, int64_t outer, int64_t T, int64_t inner, const int64_t* cu_seqlens,
    int64_t sequences, int reverse, int algorithm, int threads, const void* y, const void* a,
    int64_t a_outer, int64_t a_time, int64_t a_channel, const void* h, const void* initial,
    void* grad_a, void* grad_x, void* grad_initial) {
  const Shape shape{outer, T, inner, sequences, cu_seqlens, nullptr, bool(reverse)};
  const int64_t strides[] = {a_outer, a_time, a_channel};
  with_dtype(dtype, [&](auto stored) {
    backward<decltype(stored)>(shape, Algorithm(algorithm), threads, y, a, strides, h, initial,
                               grad_a, grad_x, grad_initial);
  });
}
