// Gates, recurrence and output of a layer in one pass each way, a cache-sized tile at a time:
// pre-activations in, outputs and states out; the backward recomputes the gates.
#include "cells.h"
#include "number.h"
#include "parallel.h"
#include "plan.h"
#include "scan.h"

namespace longrnn {
namespace {

template <class Cell>
constexpr bool kOpened = false;
template <class Base>
constexpr bool kOpened<Opened<Base>> = true;
template <class Cell>
constexpr bool kCandidate = false;
template <class Base>
constexpr bool kCandidate<Opened<Candidate<Base>>> = true;

// One vector of each gate; the gates of a row lie n apart.
template <class Stored, class V, int G>
void load_gates(const Stored* p, int64_t n, int64_t count, V (&gate)[G]) {
  for (int k = 0; k < G; k++) gate[k] = load_some<LaneOf<V>>(p + k * n, count);
}

template <class Cell, class Stored>
struct GatedForward {
  using T = Compute<Stored>;
  using V = Vector<T>;
  using Tile = ForwardTile<T>;
  static constexpr int kArrays = 3;  // a, b, c
  static constexpr bool kSingly = kOpened<Cell>;  // a kept state keeps its bits
  bool down() const { return shape.reverse; }
  static constexpr int G = Cell::kGates;

  const Shape& shape;
  Rows rows;
  const Stored *gates, *highway, *openness, *initial;
  Stored *output, *states, *last;

  void start(const Task& task, T* carry) const {
    const Stored* from = initial + task.sequence * shape.inner + task.channel;
    for (int64_t c = 0; c < task.width; c++) carry[c] = T(from[c]);
  }

  ForwardTile<T> load(const Task& task, int64_t begin, int64_t count, T* scratch) const {
    const int64_t n = shape.inner, width = task.width, size = count * width;
    for (int64_t r = 0; r < count; r++) {
      const int64_t at = rows.at(task, begin + r);
      const Stored* p = gates + at * G * n + task.channel;
      const Stored* k = kOpened<Cell> ? openness + at * n + task.channel : nullptr;
      T *a = scratch + r * width, *b = a + size;
      for (int64_t c = 0; c < width; c += kLanes<T>) {
        V gate[G], decay, impulse;
        load_gates(p + c, n, width - c, gate);
        if constexpr (kOpened<Cell>)
          Cell::gates(gate, load_some<T>(k + c, width - c), decay, impulse);
        else
          Cell::gates(gate, decay, impulse);
        store_some<T>(a + c, decay, width - c);
        store_some<T>(b + c, impulse, width - c);
      }
    }
    return {count, width, scratch, width, scratch + size, width, scratch + 2 * size, width,
            kSingly};
  }

  void advance(const Task&, int64_t, ForwardTile<T> tile, T* carry) const {
    run(tile, shape.reverse, false, carry);
  }

  void write(const Task& task, int64_t begin, ForwardTile<T> tile, const T* before) const {
    constexpr bool kFromBefore = Cell::kDelayed || kCandidate<Cell>;
    const int64_t n = shape.inner, width = task.width;
    if constexpr (kFromBefore)
      put_from_before(task, begin + (shape.reverse ? tile.rows - 1 : 0), before);
    for (int64_t r = 0; r < tile.rows; r++) {
      const T* c_row = tile.h + r * width;
      if (states) put_row(states, task, begin + r, c_row);
      if constexpr (kFromBefore) {
        const int64_t next = r + (shape.reverse ? -1 : 1);
        if (next >= 0 && next < tile.rows) put_from_before(task, begin + next, c_row);
      } else if constexpr (!Cell::kOutput) {
        put_row(output, task, begin + r, c_row);
      } else {
        const int64_t at = rows.at(task, begin + r);
        const Stored* p = gates + at * G * n + task.channel;
        const Stored* x = Cell::kHighway ? highway + at * n + task.channel : nullptr;
        Stored* h = output + at * n + task.channel;
        for (int64_t c = 0; c < width; c += kLanes<T>) {
          V gate[G], beside = {};
          load_gates(p + c, n, width - c, gate);
          if (Cell::kHighway) beside = load_some<T>(x + c, width - c);
          const V out = Cell::output(load_some<T>(c_row + c, width - c), beside, gate);
          store_some<T>(h + c, out, width - c);
        }
      }
    }
  }

  // A step's output where that is made of the state before the step.
  void put_from_before(const Task& task, int64_t step, const T* before) const {
    if constexpr (kCandidate<Cell>) {
      const int64_t n = shape.inner, width = task.width, at = rows.at(task, step);
      const int64_t own = at * n + task.channel;
      const Stored* p = gates + at * G * n + task.channel;
      for (int64_t c = 0; c < width; c += kLanes<T>) {
        const int64_t left = width - c;
        V gate[G];
        load_gates(p + c, n, left, gate);
        const V k = load_some<T>(openness + own + c, left);
        store_some<T>(output + own + c, Cell::output(gate, k, load_some<T>(before + c, left)), left);
      }
    } else {
      put_row(output, task, step, before);
    }
  }

  void put_row(Stored* to, const Task& task, int64_t step, const T* from) const {
    Stored* out = to + rows.at(task, step) * shape.inner + task.channel;
    for (int64_t c = 0; c < task.width; c += kLanes<T>)
      store_some<T>(out + c, load_some<T>(from + c, task.width - c), task.width - c);
  }

  void finish(const Task& task, const T* carry) const {
    Stored* out = last + task.sequence * shape.inner + task.channel;
    for (int64_t c = 0; c < task.width; c++) out[c] = Stored(carry[c]);
    if (shape.cu_seqlens) return;
    for (int64_t t = task.steps; t < shape.T; t++) {
      const int64_t at = rows.at(task, t) * shape.inner + task.channel;
      fill_zero(output + at, task.width);
      if (states) fill_zero(states + at, task.width);
    }
  }
};

template <class Cell, class Stored>
struct GatedBackward {
  using T = Compute<Stored>;
  using V = Vector<T>;
  using Tile = AdjointTile<T>;
  static constexpr int kArrays = 3;  // a, gradient of c through the output, s
  static constexpr bool kSingly = kOpened<Cell>;
  bool down() const { return !shape.reverse; }
  static constexpr int G = Cell::kGates;

  const Shape& shape;
  Rows rows;
  const Stored *grad_output, *grad_last, *gates, *highway, *openness, *initial;
  const Stored* states;  // c at every step; of a delayed cell, c before every step
  Stored *grad_gates, *grad_highway, *grad_openness, *grad_initial;

  void start(const Task& task, T* carry) const {
    const Stored* from =
        grad_last ? grad_last + task.sequence * shape.inner + task.channel : nullptr;
    for (int64_t c = 0; c < task.width; c++) carry[c] = from ? T(from[c]) : T(0);
  }

  AdjointTile<T> load(const Task& task, int64_t begin, int64_t count, T* scratch) const {
    const int64_t n = shape.inner, width = task.width, size = count * width;
    for (int64_t r = 0; r < count; r++) {
      const int64_t at = rows.at(task, begin + r);
      const Stored* p = gates + at * G * n + task.channel;
      const Stored* x = Cell::kHighway ? highway + at * n + task.channel : nullptr;
      const Stored* state = states + at * n + task.channel;
      const Stored* k = kOpened<Cell> ? openness + at * n + task.channel : nullptr;
      const Stored* g = incoming(task, begin + r);
      T *a = scratch + r * width, *y = a + size;
      for (int64_t c = 0; c < width; c += kLanes<T>) {
        const int64_t left = width - c;
        V gate[G], unused[G], decay, impulse, beside = {}, grad_x, through = {};
        load_gates(p + c, n, left, gate);
        if constexpr (!kCandidate<Cell>) {
          if (Cell::kHighway) beside = load_some<T>(x + c, left);
          if (g)
            through = Cell::output_backward(load_some<T>(g + c, left), load_some<T>(state + c, left),
                                            beside, gate, unused, grad_x);
        }
        if constexpr (kOpened<Cell>)
          Cell::gates(gate, load_some<T>(k + c, left), decay, impulse);
        else
          Cell::gates(gate, decay, impulse);
        store_some<T>(a + c, decay, left);
        store_some<T>(y + c, through, left);
      }
      if constexpr (kCandidate<Cell>) {
        const int64_t next = r + (shape.reverse ? -1 : 1);
        if (next >= 0 && next < count) add_to_before(task, begin + next, y);
      }
    }
    AdjointTile<T> tile{};
    tile.rows = count;
    tile.width = tile.a_row = tile.y_row = tile.s_row = width;
    tile.a = scratch;
    tile.y = scratch + size;
    tile.s = scratch + 2 * size;
    return tile;
  }

  // The gradient that reaches the state of a step through an output; null where there is none.
  const Stored* incoming(const Task& task, int64_t step) const {
    if (Cell::kDelayed) step += shape.reverse ? -1 : 1;
    if (!grad_output || step < 0 || step >= task.steps) return nullptr;
    return grad_output + rows.at(task, step) * shape.inner + task.channel;
  }

  // Adds to `to` the gradient that reaches the state before a step through a candidate put out there.
  void add_to_before(const Task& task, int64_t step, T* to) const {
    if (!grad_output) return;
    const int64_t n = shape.inner, width = task.width, at = rows.at(task, step);
    const int64_t own = at * n + task.channel;
    const Stored *p = gates + at * G * n + task.channel, *before = state_before(task, step);
    for (int64_t c = 0; c < width; c += kLanes<T>) {
      const int64_t left = width - c;
      V gate[G];
      load_gates(p + c, n, left, gate);
      const V k = load_some<T>(openness + own + c, left), g = load_some<T>(grad_output + own + c, left),
              through = Cell::output_backward(gate, k, g, load_some<T>(before + c, left));
      store_some<T>(to + c, load_some<T>(to + c, left) + through, left);
    }
  }

  const Stored* state_before(const Task& task, int64_t step) const {
    if (!Cell::kDelayed) step += shape.reverse ? 1 : -1;
    if (step < 0 || step >= task.steps) return initial + task.sequence * shape.inner + task.channel;
    return states + rows.at(task, step) * shape.inner + task.channel;
  }

  void advance(const Task& task, int64_t begin, AdjointTile<T> tile, T* carry) const {
    run(tile, !shape.reverse, false, carry);
    if constexpr (kCandidate<Cell>)
      add_to_before(task, begin + (shape.reverse ? tile.rows - 1 : 0), carry);
  }

  void write(const Task& task, int64_t begin, AdjointTile<T> tile, const T*) const {
    const int64_t n = shape.inner, width = task.width;
    for (int64_t r = 0; r < tile.rows; r++) {
      const int64_t at = rows.at(task, begin + r);
      const Stored* p = gates + at * G * n + task.channel;
      const Stored* x = Cell::kHighway ? highway + at * n + task.channel : nullptr;
      const Stored* g = Cell::kOutput && grad_output ? grad_output + at * n + task.channel : nullptr;
      const Stored *before = state_before(task, begin + r), *state = states + at * n + task.channel;
      Stored* grad = grad_gates + at * G * n + task.channel;
      Stored* grad_x = Cell::kHighway ? grad_highway + at * n + task.channel : nullptr;
      const int64_t own = at * n + task.channel;
      const T* s = tile.s + r * width;
      for (int64_t c = 0; c < width; c += kLanes<T>) {
        const int64_t left = width - c;
        V gate[G], d[G], dx, beside = {}, grad_h = {};
        load_gates(p + c, n, left, gate);
        if (Cell::kHighway) beside = load_some<T>(x + c, left);
        if (g) grad_h = load_some<T>(g + c, left);
        const V to_state = load_some<T>(s + c, left), old = load_some<T>(before + c, left);
        if constexpr (!kCandidate<Cell>)
          Cell::output_backward(grad_h, load_some<T>(state + c, left), beside, gate, d, dx);
        if constexpr (kOpened<Cell>) {
          const V k = load_some<T>(openness + own + c, left);
          V grad_k;
          if constexpr (kCandidate<Cell>)
            grad_k = Cell::gates_backward(gate, k, to_state, grad_h, old, d);
          else
            grad_k = Cell::gates_backward(gate, k, to_state, old, d);
          store_some<T>(grad_openness + own + c, grad_k, left);
        } else {
          Cell::gates_backward(gate, to_state, old, d);
        }
        for (int k = 0; k < G; k++) store_some<T>(grad + k * n + c, d[k], left);
        if (Cell::kHighway) store_some<T>(grad_x + c, dx, left);
      }
    }
  }

  void finish(const Task& task, const T* carry) const {
    const int64_t n = shape.inner;
    const Stored* g = Cell::kDelayed && grad_output && task.steps > 0
                          ? grad_output + rows.at(task, shape.reverse ? task.steps - 1 : 0) * n +
                                task.channel
                          : nullptr;
    Stored* out = grad_initial + task.sequence * n + task.channel;
    for (int64_t c = 0; c < task.width; c++) out[c] = Stored(carry[c] + (g ? T(g[c]) : T(0)));
    if (shape.cu_seqlens) return;
    for (int64_t t = task.steps; t < shape.T; t++) {
      const int64_t at = rows.at(task, t);
      for (int k = 0; k < G; k++)
        fill_zero(grad_gates + (at * G + k) * n + task.channel, task.width);
      if (Cell::kHighway) fill_zero(grad_highway + at * n + task.channel, task.width);
      if (kOpened<Cell>) fill_zero(grad_openness + at * n + task.channel, task.width);
    }
  }
};

template <class Call>
void with_cell(int cell, const Call& call) {
  switch (cell) {  // the order of CELLS in cells.py
    case 0: return call(Gilr<Tanh>());
    case 1: return call(Gilr<Elu>());
    case 2: return call(Gilr<Identity>());
    case 3: return call(Gilr<Relu>());
    case 4: return call(Surrogate());
    case 5: return call(Lstm());
    case 6: return call(Sru<Identity>());
    case 7: return call(Sru<Tanh>());
    case 8: return call(Qrnn());
    case 9: return call(StronglyTypedRnn());
    case 10: return call(StronglyTypedGru());
    case 11: return call(StronglyTypedLstm());
    case 12: return call(MinGru());
    case 13: return call(MinLstm());
    case 14: return call(Hold());
    case 15: return call(Candidate<Gilr<Tanh>>());
    case 16: return call(Candidate<Lstm>());
    default: __builtin_trap();
  }
}

template <class Call>
void with_cell(int cell, bool opened, const Call& call) {
  with_cell(cell, [&](auto whole) {
    if (opened) return call(Opened<decltype(whole)>());
    call(whole);
  });
}

// Gates are arithmetic more than memory: smaller tiles than a bare recurrence, and threads sooner.
constexpr Grain kGatedGrain{1 << 10, 2 << 10, 16 << 10, 1 << 14};

}  // namespace
}  // namespace longrnn

using namespace longrnn;

EXPORT void longrnn_gated_recurrence_forward(
    int dtype, int cell, int64_t batch, int64_t T, int64_t n, const int64_t* cu_seqlens,
    int64_t sequences, const int64_t* lengths, int batch_first, int reverse, int threads,
    const void* gates, const void* highway, const void* openness, const void* initial, void* output,
    void* states, void* last) {
  const Shape shape{batch, T, n, sequences, cu_seqlens, lengths, bool(reverse)};
  with_floating(dtype, [&](auto stored) {
    using Stored = decltype(stored);
    const Plan plan = make_plan<Compute<Stored>>(shape, kAuto, threads, kGatedGrain);
    with_cell(cell, openness, [&](auto definition) {
      const GatedForward<decltype(definition), Stored> job{
          shape,
          Rows(shape, batch_first),
          static_cast<const Stored*>(gates),
          static_cast<const Stored*>(highway),
          static_cast<const Stored*>(openness),
          static_cast<const Stored*>(initial),
          static_cast<Stored*>(output),
          static_cast<Stored*>(states),
          static_cast<Stored*>(last)};
      execute_job(plan, shape, job);
    });
  });
}

EXPORT void longrnn_gated_recurrence_backward(
    int dtype, int cell, int64_t batch, int64_t T, int64_t n, const int64_t* cu_seqlens,
    int64_t sequences, const int64_t* lengths, int batch_first, int reverse, int threads,
    const void* grad_output, const void* grad_last, const void* gates, const void* highway,
    const void* openness, const void* initial, const void* states, void* grad_gates,
    void* grad_highway, void* grad_openness, void* grad_initial) {
  const Shape shape{batch, T, n, sequences, cu_seqlens, lengths, bool(reverse)};
  with_floating(dtype, [&](auto stored) {
    using Stored = decltype(stored);
    const Plan plan = make_plan<Compute<Stored>>(shape, kAuto, threads, kGatedGrain);
    with_cell(cell, openness, [&](auto definition) {
      const GatedBackward<decltype(definition), Stored> job{
          shape,
          Rows(shape, batch_first),
          static_cast<const Stored*>(grad_output),
          static_cast<const Stored*>(grad_last),
          static_cast<const Stored*>(gates),
          static_cast<const Stored*>(highway),
          static_cast<const Stored*>(openness),
          static_cast<const Stored*>(initial),
          static_cast<const Stored*>(states),
          static_cast<Stored*>(grad_gates),
          static_cast<Stored*>(grad_highway),
          static_cast<Stored*>(grad_openness),
          static_cast<Stored*>(grad_initial)};
      execute_job(plan, shape, job);
    });
  });
}
