// A layer of LSTM or GRU cells each of whose units sees its own state only, step after step: as
// units do not wait for each other, some vectors of them go through time side by side, so that one
// computes while another waits for its exponentials. The forward keeps states only; the backward
// recomputes the gates. Definition in words: src/longrnn/ops/diagonal_recurrence/cells.py.
#include "math.h"
#include "number.h"
#include "parallel.h"
#include "plan.h"

namespace longrnn {
namespace {

// On vectors of units: pre-activations x, weights w, states s (h, then c).
//
//   step(x, w, s)                       replaces s by the states after the step
//   backward(x, w, before, ds, d, dw)   replaces ds, gradients of the states after the step, by
//                                       those before it; fills d of x; adds to dw of w
struct DiagonalLstm {
  static constexpr int kStates = 2, kWeights = 5;

  template <class V>
  static void step(const V* x, const V* w, V* s) {
    const Gate f(x[0] + w[0] * s[0] + w[3] * s[1]);
    const V g = hyperbolic_tangent(x[1] + w[1] * s[0]);
    s[1] = f.open * s[1] + f.shut * g;
    s[0] = sigmoid(x[2] + w[2] * s[0] + w[4] * s[1]) * hyperbolic_tangent(s[1]);
  }
  template <class V>
  static void backward(const V* x, const V* w, const V* before, V* ds, V* d, V* dw) {
    const V h = before[0], c = before[1];
    const Gate f(x[0] + w[0] * h + w[3] * c);
    const V g = hyperbolic_tangent(x[1] + w[1] * h);
    const V after = f.open * c + f.shut * g;
    const Gate o(x[2] + w[2] * h + w[4] * after);
    const V y = hyperbolic_tangent(after);
    d[2] = ds[0] * y * o.slope();
    const V dc = ds[1] + ds[0] * o.open * (1 - y * y) + w[4] * d[2];
    d[0] = dc * (c - g) * f.slope();
    d[1] = dc * f.shut * (1 - g * g);
    ds[0] = w[0] * d[0] + w[1] * d[1] + w[2] * d[2];
    ds[1] = dc * f.open + w[3] * d[0];
    for (int k = 0; k < 3; k++) dw[k] += d[k] * h;
    dw[3] += d[0] * c;
    dw[4] += d[2] * after;
  }
};
struct DiagonalGru {
  static constexpr int kStates = 1, kWeights = 3;

  template <class V>
  static void step(const V* x, const V* w, V* s) {
    const Gate z(x[0] + w[0] * s[0]);
    const V r = sigmoid(x[1] + w[1] * s[0]);
    s[0] = z.shut * s[0] + z.open * hyperbolic_tangent(x[2] + w[2] * (r * s[0]));
  }
  template <class V>
  static void backward(const V* x, const V* w, const V* before, V* ds, V* d, V* dw) {
    const V h = before[0];
    const Gate z(x[0] + w[0] * h), r(x[1] + w[1] * h);
    const V c = hyperbolic_tangent(x[2] + w[2] * (r.open * h));
    d[0] = ds[0] * (c - h) * z.slope();
    d[2] = ds[0] * z.open * (1 - c * c);
    const V by_reset = w[2] * d[2];
    d[1] = by_reset * h * r.slope();
    ds[0] = ds[0] * z.shut + by_reset * r.open + w[0] * d[0] + w[1] * d[1];
    dw[0] += d[0] * h;
    dw[1] += d[1] * h;
    dw[2] += d[2] * r.open * h;
  }
};
constexpr int kGates = 3;        // of either
constexpr int kSideBySide = 16;  // vectors that go through time together, at most
constexpr int64_t kRun = 256;    // steps whose shares of a weight's gradient are added up first

// How a call is cut: a strand is a vector of units of one sequence, a task is `together` of them.
template <class T>
struct Strands {
  Plan plan;
  int64_t count, together;

  Strands(const Shape& shape, int threads)
      : plan{threads, kLanes<T>, ceil_div(shape.inner, kLanes<T>), 0, false},
        count(shape.count() * plan.blocks) {
    if (shape.outer * shape.T * shape.inner < 1 << 14 || threads < 1) plan.threads = 1;
    const int64_t rounds = ceil_div(count, int64_t(plan.threads) * kSideBySide);
    together = rounds > 0 ? ceil_div(count, plan.threads * rounds) : 1;
  }
};

template <class Cell, class T>
struct Job {
  using V = Vector<T>;
  static constexpr int S = Cell::kStates, W = Cell::kWeights;

  const Shape& shape;
  Rows rows;
  const T *gates, *weight, *initial;

  // One strand on its way.
  struct Strand : Task {
    V weight[W], state[S];
  };

  Strand strand(const Strands<T>& strands, int64_t i) const {
    Strand at;
    static_cast<Task&>(at) = strands.plan.task(shape, i);
    for (int k = 0; k < W; k++)
      at.weight[k] = load_some<T>(weight + k * shape.inner + at.channel, at.width);
    return at;
  }

  // Of a step of the run, which goes down in memory where `down`, the place of a strand's units.
  int64_t place(const Strand& at, int64_t step, bool down) const {
    return rows.at(at, down ? at.steps - 1 - step : step) * shape.inner + at.channel;
  }
  int64_t state_place(const Strand& at, int k) const {
    return (k * shape.count() + at.sequence) * shape.inner + at.channel;
  }

  // Pre-activations lie as units do, but for a factor.
  void load_gates(const Strand& at, int64_t place, V (&x)[kGates]) const {
    const T* from = gates + (place - at.channel) * kGates + at.channel;
    for (int k = 0; k < kGates; k++) x[k] = load_some<T>(from + k * shape.inner, at.width);
  }
  template <class Do>
  void past_the_end(const Strand& at, const Do& zero) const {
    if (shape.cu_seqlens) return;
    for (int64_t t = at.steps; t < shape.T; t++)
      zero(rows.at(at, t) * shape.inner + at.channel);
  }
};

template <class Cell, class T>
struct Forward : Job<Cell, T> {
  using Base = Job<Cell, T>;
  using typename Base::Strand;
  using typename Base::V;
  using Base::S;

  T *output, *cells, *last;  // cells: c at every step, or null

  void operator()(const Strands<T>& strands, int64_t first, int64_t count) const {
    Strand side[kSideBySide];
    int64_t longest = 0;
    for (int64_t i = 0; i < count; i++) {
      Strand& at = side[i] = this->strand(strands, first + i);
      for (int k = 0; k < S; k++)
        at.state[k] = load_some<T>(this->initial + this->state_place(at, k), at.width);
      longest = at.steps > longest ? at.steps : longest;
    }
    for (int64_t t = 0; t < longest; t++) {
      for (int64_t i = 0; i < count; i++) {
        Strand& at = side[i];
        if (t >= at.steps) continue;
        const int64_t place = this->place(at, t, this->shape.reverse);
        V x[kGates];
        this->load_gates(at, place, x);
        Cell::step(x, at.weight, at.state);
        store_some<T>(output + place, at.state[0], at.width);
        if (S > 1 && cells) store_some<T>(cells + place, at.state[S - 1], at.width);
      }
    }
    for (int64_t i = 0; i < count; i++) {
      const Strand& at = side[i];
      for (int k = 0; k < S; k++)
        store_some<T>(last + this->state_place(at, k), at.state[k], at.width);
      this->past_the_end(at, [&](int64_t place) {
        fill_zero(output + place, at.width);
        if (S > 1 && cells) fill_zero(cells + place, at.width);
      });
    }
  }
};

template <class Cell, class T>
struct Backward : Job<Cell, T> {
  using Base = Job<Cell, T>;
  using typename Base::V;
  using Base::S, Base::W;

  const T *grad_output, *grad_last, *output, *cells;
  T *grad_gates, *grad_weight, *grad_initial;  // grad_weight: of each sequence

  // `state` is the gradient of the state after the step at hand.
  struct Strand : Base::Strand {
    V sum[W], run[W];
  };

  void operator()(const Strands<T>& strands, int64_t first, int64_t count) const {
    const int64_t n = this->shape.inner;
    Strand side[kSideBySide];
    int64_t longest = 0;
    for (int64_t i = 0; i < count; i++) {
      Strand& at = side[i];
      static_cast<typename Base::Strand&>(at) = this->strand(strands, first + i);
      for (int k = 0; k < S; k++)
        at.state[k] =
            grad_last ? load_some<T>(grad_last + this->state_place(at, k), at.width) : V{};
      for (int k = 0; k < W; k++) at.sum[k] = at.run[k] = V{};
      longest = at.steps > longest ? at.steps : longest;
    }
    for (int64_t t = longest - 1; t >= 0; t--) {
      for (int64_t i = 0; i < count; i++) {
        Strand& at = side[i];
        if (t >= at.steps) continue;
        const int64_t place = this->place(at, t, this->shape.reverse);
        V x[kGates], before[S], d[kGates];
        this->load_gates(at, place, x);
        load_before(at, t, before);
        if (grad_output) at.state[0] += load_some<T>(grad_output + place, at.width);
        Cell::backward(x, at.weight, before, at.state, d, at.run);
        T* to = grad_gates + (place - at.channel) * kGates + at.channel;
        for (int k = 0; k < kGates; k++) store_some<T>(to + k * n, d[k], at.width);
        if (t % kRun == 0)
          for (int k = 0; k < W; k++) at.sum[k] += at.run[k], at.run[k] = V{};
      }
    }
    for (int64_t i = 0; i < count; i++) {
      const Strand& at = side[i];
      for (int k = 0; k < S; k++)
        store_some<T>(grad_initial + this->state_place(at, k), at.state[k], at.width);
      for (int k = 0; k < W; k++)
        store_some<T>(grad_weight + (at.sequence * W + k) * n + at.channel, at.sum[k], at.width);
      this->past_the_end(at, [&](int64_t place) {
        T* to = grad_gates + (place - at.channel) * kGates + at.channel;
        for (int k = 0; k < kGates; k++) fill_zero(to + k * n, at.width);
      });
    }
  }

  void load_before(const Strand& at, int64_t t, V (&before)[S]) const {
    const int64_t place = t > 0 ? this->place(at, t - 1, this->shape.reverse) : 0;
    const T* kept[] = {output, cells};
    for (int k = 0; k < S; k++)
      before[k] = load_some<T>(
          t > 0 ? kept[k] + place : this->initial + this->state_place(at, k), at.width);
  }
};

template <class T, class Run>
void run_strands(const Shape& shape, int threads, const Run& run) {
  const Strands<T> strands(shape, threads);
  for_each_claimed(ceil_div(strands.count, strands.together), strands.plan.threads, [&](int64_t i) {
    const int64_t first = i * strands.together, left = strands.count - first;
    run(strands, first, left < strands.together ? left : strands.together);
  });
}

template <class Call>
void with_cell(int cell, const Call& call) {
  switch (cell) {  // the order of CANDIDATES in candidates.py
    case 0: return call(DiagonalLstm());
    case 1: return call(DiagonalGru());
    default: __builtin_trap();
  }
}

}  // namespace
}  // namespace longrnn

using namespace longrnn;

EXPORT void longrnn_diagonal_recurrence_forward(
    int dtype, int cell, int64_t batch, int64_t T, int64_t n, const int64_t* cu_seqlens,
    int64_t sequences, const int64_t* lengths, int batch_first, int reverse, int threads,
    const void* gates, const void* weight, const void* initial, void* output, void* last,
    void* cells) {
  const Shape shape{batch, T, n, sequences, cu_seqlens, lengths, bool(reverse)};
  with_real(dtype, [&](auto number) {
    using N = decltype(number);
    with_cell(cell, [&](auto definition) {
      run_strands<N>(shape, threads,
                     Forward<decltype(definition), N>{{shape,
                                                       Rows(shape, batch_first),
                                                       static_cast<const N*>(gates),
                                                       static_cast<const N*>(weight),
                                                       static_cast<const N*>(initial)},
                                                      static_cast<N*>(output),
                                                      static_cast<N*>(cells),
                                                      static_cast<N*>(last)});
    });
  });
}

EXPORT void longrnn_diagonal_recurrence_backward(
    int dtype, int cell, int64_t batch, int64_t T, int64_t n, const int64_t* cu_seqlens,
    int64_t sequences, const int64_t* lengths, int batch_first, int reverse, int threads,
    const void* gates, const void* weight, const void* initial, const void* grad_output,
    const void* grad_last, const void* output, const void* cells, void* grad_gates,
    void* grad_weight, void* grad_initial) {
  const Shape shape{batch, T, n, sequences, cu_seqlens, lengths, bool(reverse)};
  with_real(dtype, [&](auto number) {
    using N = decltype(number);
    with_cell(cell, [&](auto definition) {
      run_strands<N>(shape, threads,
                     Backward<decltype(definition), N>{{shape,
                                                        Rows(shape, batch_first),
                                                        static_cast<const N*>(gates),
                                                        static_cast<const N*>(weight),
                                                        static_cast<const N*>(initial)},
                                                       static_cast<const N*>(grad_output),
                                                       static_cast<const N*>(grad_last),
                                                       static_cast<const N*>(output),
                                                       static_cast<const N*>(cells),
                                                       static_cast<N*>(grad_gates),
                                                       static_cast<N*>(grad_weight),
                                                       static_cast<N*>(grad_initial)});
    });
  });
}
