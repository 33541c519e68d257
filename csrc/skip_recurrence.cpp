// A stack of LSTM or GRU cells under one gate that skips steps. With `keep`, every step is
// evaluated and what the gradient needs is kept; without, a sequence goes straight to its next
// update. Definition in words: src/longrnn/ops/skip_recurrence/plain.py.
#include <vector>

#include "hidden_layer.h"
#include "number.h"
#include "plan.h"
#include "skip_gate.h"
#include "teams.h"

namespace longrnn {
namespace {

constexpr int64_t kFew = 8;  // rows for which it does not pay to pack the weights

// The arrays of both ways. Those of a layer stand one after the other: (layers, rows, ...).
template <class Cell_, class T_>
struct SkipCall {
  using Cell = Cell_;
  using T = T_;

  Shape shape;
  Rows rows;
  int64_t total;  // rows
  int64_t n, m, depth;
  const T* masks;                      // (depth - 1, rows, n), or null
  const T *initial_hidden, *initial_cells;
  T *gates, *hidden, *cells, *inputs;  // kept: activations; before the step; of layers > 0
  SkipGate<T>* gate;
  Buffer<T> weight_u;
  T bias_u;
  std::vector<HiddenLayer<T, Cell>> layers;

  int64_t row(int64_t s, int64_t t) const { return rows.at(shape, s, t); }
  int64_t width(int64_t layer) const { return layer ? n : m; }
  // Where a row of n (or of 4 n) of a layer begins.
  int64_t at(int64_t layer, int64_t row) const { return (layer * total + row) * n; }

  int64_t bytes() const {
    int64_t sum = 0;
    for (const auto& layer : layers) sum += layer.bytes();
    return sum;
  }
  int threads(int granted) const { return threads_for(total * bytes() / sizeof(T), granted); }

  void pack(const void* const* weights, const void* gate_weight, Use use) {
    auto get = [&](int64_t i) { return static_cast<const T*>(weights[i]); };
    for (int64_t k = 0; k < depth; k++) {
      const int64_t features = use != kBackward || k ? width(k) : 0;  // no gradient of x is asked here
      layers.emplace_back(n, features, get(3 * k), get(3 * k + 1), get(3 * k + 2), use);
    }
    weight_u = zeros<T>(layers[0].block);
    load_row(weight_u.get(), static_cast<const T*>(gate_weight), n);
  }
};

template <class Base>
struct SkipForward : Base {
  using typename Base::T;
  bool keep;
  const T* x;
  const T *prob, *accum;
  T *output, *last_hidden, *last_cells;
  T *updates, *last_prob, *last_accum;
};

template <class Call>
class ForwardTeam {
  using Cell = typename Call::Cell;
  using T = typename Call::T;
  using V = Vector<T>;

 public:
  ForwardTeam(const Call& call, int64_t count)
      : call_(call), members_(count), block_(call.layers[0].block),
        gates_(zeros<T>(count * 4 * block_)) {
    for (const auto& layer : call.layers) {
      states_.push_back(zeros<T>(count * layer.state_row()));
      if (Cell::kCells) cells_.push_back(zeros<T>(count * block_));
    }
  }

  bool enter(int64_t i, int64_t s) {
    members_[i] = {s, 0, call_.shape.steps(s), {call_.prob[s], call_.accum[s], 0, 0}};
    for (int64_t k = 0; k < call_.depth; k++) {
      const int64_t from = (k * call_.shape.count() + s) * call_.n;
      load_row(state(k, i), call_.initial_hidden + from, call_.n);
      if (Cell::kCells) load_row(cell(k, i), call_.initial_cells + from, call_.n);
    }
    return seek(i);
  }

  bool seek(int64_t i) {
    Member& member = members_[i];
    for (; member.t < member.steps; member.t++) {
      member.gate.accumulate();
      if (call_.keep || member.gate.update()) return true;
      put_step(i);
    }
    finish(i);
    return false;
  }

  void step(int64_t count) {
    for (int64_t i = 0; i < count; i++) {
      const int64_t row = row_of(i);
      load_row(state(0, i) + block_, call_.x + row * call_.m, call_.m);
    }
    for (int64_t k = 0; k < call_.depth; k++) {
      const auto& layer = call_.layers[k];
      for (int64_t i = 0; i < count; i++)
        __builtin_memcpy(gates(i), layer.bias.get(), 4 * block_ * sizeof(T));
      layer.add_products(count, states_[k].get(), gates_.get());
      if constexpr (Cell::kResetsBefore) {
        for (int64_t i = 0; i < count; i++) reset(layer, k, i);
        layer.add_reset_product(count, states_[k].get(), gates_.get());
      }
      for (int64_t i = 0; i < count; i++) evaluate(k, i);
    }
    for (int64_t i = 0; i < count; i++) {
      if (call_.keep) call_.gate[row_of(i)] = members_[i].gate;
      put_step(i);
      members_[i].t++;
    }
  }

  void move(int64_t from, int64_t to) {
    members_[to] = members_[from];
    for (int64_t k = 0; k < call_.depth; k++) {
      __builtin_memcpy(state(k, to), state(k, from), block_ * sizeof(T));
      if (Cell::kCells) __builtin_memcpy(cell(k, to), cell(k, from), block_ * sizeof(T));
    }
  }

 private:
  struct Member {
    int64_t s, t, steps;
    SkipGate<T> gate;
  };

  int64_t row_of(int64_t i) const { return call_.row(members_[i].s, members_[i].t); }
  T* state(int64_t k, int64_t i) { return &states_[k][i * call_.layers[k].state_row()]; }
  T* cell(int64_t k, int64_t i) { return &cells_[k][i * block_]; }
  T* gates(int64_t i) { return &gates_[i * 4 * block_]; }

  void reset(const HiddenLayer<T, Cell>& layer, int64_t k, int64_t i) {
    T *h = state(k, i), *r = gates(i) + block_, *reset_h = h + layer.state_row() - block_;
    for (int64_t c = 0; c < block_; c += kLanes<T>) {
      const V open = sigmoid(load(r + c));
      store(r + c, open);
      store(reset_h + c, open * load(h + c));
    }
  }

  // From pre-activations to candidates, and to the next state if the step updates.
  void evaluate(int64_t k, int64_t i) {
    const int64_t row = row_of(i), n = call_.n, at = call_.at(k, row);
    const bool top = k + 1 == call_.depth, update = members_[i].gate.update();
    T *p = gates(i), *h = state(k, i), *next = top ? nullptr : state(k + 1, i) + block_;
    T* c = Cell::kCells ? cell(k, i) : h;
    V along = {};
    for (int64_t j = 0; j < n; j += kLanes<T>) {
      const int64_t left = n - j;
      V g[4], new_h, new_c;
      for (int b = 0; b < 4; b++) g[b] = load(p + b * block_ + j);
      Cell::activate(g);
      const V before_h = load(h + j), before_c = load(c + j);
      Cell::candidate(g, before_h, before_c, new_h, new_c);
      if (call_.keep) {
        for (int b = 0; b < 4; b++) store_some<T>(call_.gates + 4 * at + b * n + j, g[b], left);
        store_some<T>(call_.hidden + at + j, before_h, left);
        if (Cell::kCells) store_some<T>(call_.cells + at + j, before_c, left);
      }
      if (update) {
        store(h + j, new_h);
        if (Cell::kCells) store(c + j, new_c);
      }
      if (top) {
        along += new_c * load(call_.weight_u.get() + j);
      } else {
        if (call_.masks) new_h *= load_some<T>(call_.masks + at + j, left);
        store(next + j, new_h);
        if (call_.keep) store_some<T>(call_.inputs + at + j, new_h, left);
      }
    }
    if (top) members_[i].gate.new_prob = sigmoid(all<V>(sum_of<T>(along) + call_.bias_u))[0];
  }

  // The results of a step, and the gate before the next.
  void put_step(int64_t i) {
    SkipGate<T>& gate = members_[i].gate;
    const int64_t row = row_of(i);
    call_.updates[row] = gate.update();
    store_row(call_.output + row * call_.n, state(call_.depth - 1, i), call_.n);
    gate.pass();
  }

  void finish(int64_t i) {
    const Member& member = members_[i];
    const int64_t s = member.s, n = call_.n;
    for (int64_t k = 0; k < call_.depth; k++) {
      const int64_t to = (k * call_.shape.count() + s) * n;
      store_row(call_.last_hidden + to, state(k, i), n);
      if (Cell::kCells) store_row(call_.last_cells + to, cell(k, i), n);
    }
    call_.last_prob[s] = member.gate.prob;
    call_.last_accum[s] = member.gate.accum;
    if (call_.shape.cu_seqlens) return;
    for (int64_t t = member.steps; t < call_.shape.T; t++) {
      const int64_t row = call_.row(s, t);
      call_.updates[row] = 0;
      fill_zero(call_.output + row * n, n);
      if (call_.keep) call_.gate[row] = {};
    }
  }

  const Call& call_;
  std::vector<Member> members_;
  int64_t block_;
  Buffer<T> gates_;
  std::vector<Buffer<T>> states_, cells_;
};

template <class Base>
struct SkipBackward : Base {
  using typename Base::T;
  const T* x;
  const int64_t* position;  // of each row that updates, among them
  const T *grad_output, *grad_hidden, *grad_cells;  // any of the incoming may be null
  const T *grad_updates, *grad_prob, *grad_accum;
  // Of each layer, a row an update: gradients of the pre-activations (4 n), and what they are
  // multiplied with for those of the weights, [h | r h if it resets before | x | 1].
  T *const *grad_gates, *const *seen;
  T *grad_initial_hidden, *grad_initial_cells;
  T *grad_initial_prob, *grad_initial_accum, *grad_weight_u, *grad_bias_u;  // one a sequence
};

template <class Call>
class BackwardTeam {
  using Cell = typename Call::Cell;
  using T = typename Call::T;
  using V = Vector<T>;

 public:
  BackwardTeam(const Call& call, int64_t count)
      : call_(call), members_(count), block_(call.layers[0].block),
        gates_(zeros<T>(count * 4 * block_)), reset_(zeros<T>(count * block_)),
        weight_u_(zeros<T>(count * block_)) {
    for (const auto& layer : call.layers) {
      hidden_.push_back(zeros<T>(count * layer.gradient_row()));
      cells_.push_back(zeros<T>(count * block_));
    }
  }

  bool enter(int64_t i, int64_t s) {
    const T prob = call_.grad_prob ? call_.grad_prob[s] : 0;
    const T accum = call_.grad_accum ? call_.grad_accum[s] : 0;
    members_[i] = {s, call_.shape.steps(s) - 1, {prob, accum}, 0, 0, {}};
    fill_zero(weight_u(i), block_);
    for (int64_t k = 0; k < call_.depth; k++) {
      const int64_t from = (k * call_.shape.count() + s) * call_.n;
      fill_zero(hidden(k, i), block_);
      fill_zero(cells(k, i), block_);
      if (call_.grad_hidden) load_row(hidden(k, i), call_.grad_hidden + from, call_.n);
      if (call_.grad_cells) load_row(cells(k, i), call_.grad_cells + from, call_.n);
    }
    return seek(i);
  }

  // Passes skipped steps, which reach nothing but the gate, to the next update.
  bool seek(int64_t i) {
    Member& member = members_[i];
    for (; member.t >= 0; member.t--) {
      const int64_t row = row_of(i);
      member.gate = call_.gate[row];
      if (call_.grad_output) add_output(i, call_.grad_output + row * call_.n);
      pass_gate(i);
      if (member.gate.update()) return true;
    }
    finish(i);
    return false;
  }

  void step(int64_t count) {
    for (int64_t k = call_.depth; k-- > 0;) {
      const auto& layer = call_.layers[k];
      for (int64_t i = 0; i < count; i++) differentiate(k, i);
      if constexpr (Cell::kResetsBefore) {
        for (int64_t i = 0; i < count; i++) fill_zero(&reset_[i * block_], block_);
        layer.add_reset_gradients(count, gates_.get(), reset_.get(), block_);
        for (int64_t i = 0; i < count; i++) differentiate_reset(k, i);
      }
      layer.add_gradients(count, gates_.get(), hidden_[k].get());
    }
    for (int64_t i = 0; i < count; i++) members_[i].t--;
  }

  void move(int64_t from, int64_t to) {
    members_[to] = members_[from];
    __builtin_memcpy(weight_u(to), weight_u(from), block_ * sizeof(T));
    for (int64_t k = 0; k < call_.depth; k++) {
      __builtin_memcpy(hidden(k, to), hidden(k, from), block_ * sizeof(T));
      __builtin_memcpy(cells(k, to), cells(k, from), block_ * sizeof(T));
    }
  }

 private:
  struct Member {
    int64_t s, t;
    SkipGateGradient<T> after;  // of the step
    T logit, bias_u;            // gradient of the gate's pre-activation, and their sum
    SkipGate<T> gate;
  };

  int64_t row_of(int64_t i) const { return call_.row(members_[i].s, members_[i].t); }
  T* hidden(int64_t k, int64_t i) { return &hidden_[k][i * call_.layers[k].gradient_row()]; }
  T* cells(int64_t k, int64_t i) { return &cells_[k][i * block_]; }
  T* gates(int64_t i) { return &gates_[i * 4 * block_]; }
  T* weight_u(int64_t i) { return &weight_u_[i * block_]; }

  // What was kept of a step: activations, h and c before it.
  void load_kept(int64_t at, int64_t j, V (&g)[4], V& h, V& c) const {
    const int64_t left = call_.n - j;
    for (int b = 0; b < 4; b++) g[b] = load_some<T>(call_.gates + 4 * at + b * call_.n + j, left);
    h = load_some<T>(call_.hidden + at + j, left);
    c = Cell::kCells ? load_some<T>(call_.cells + at + j, left) : h;
  }

  void add_output(int64_t i, const T* grad) {
    T* h = hidden(call_.depth - 1, i);
    for (int64_t j = 0; j < call_.n; j += kLanes<T>)
      store(h + j, load(h + j) + load_some<T>(grad + j, call_.n - j));
  }

  // From the gradients of the state after a step to those of the gate before it.
  void pass_gate(int64_t i) {
    Member& member = members_[i];
    const int64_t row = row_of(i);
    V change = {};  // in the loss, to first order, if the state were the candidate
    for (int64_t k = 0; k < call_.depth; k++) {
      for (int64_t j = 0; j < call_.n; j += kLanes<T>) {
        V g[4], h, c, new_h, new_c;
        load_kept(call_.at(k, row), j, g, h, c);
        Cell::candidate(g, h, c, new_h, new_c);
        change += load(hidden(k, i) + j) * (new_h - h);
        if (Cell::kCells) change += load(cells(k, i) + j) * (new_c - c);
      }
    }
    const T through = call_.grad_updates ? call_.grad_updates[row] : 0;
    member.logit = member.after.pass(member.gate, sum_of<T>(change) + through);
    member.bias_u += member.logit;
  }

  // From the gradients of a layer's candidates to those of its pre-activations.
  void differentiate(int64_t k, int64_t i) {
    const Member& member = members_[i];
    const int64_t n = call_.n, row = row_of(i), at = call_.at(k, row);
    const bool top = k + 1 == call_.depth;
    T* out = call_.grad_gates[k] + call_.position[row] * 4 * n;
    T *grad_h = hidden(k, i), *grad_c = cells(k, i), *d_row = gates(i);
    const T* above = top ? nullptr : hidden(k + 1, i) + block_;
    for (int64_t j = 0; j < n; j += kLanes<T>) {
      const int64_t left = n - j;
      V g[4], d[4], h, c, dh, dc, gh = load(grad_h + j), gc = load(grad_c + j);
      load_kept(at, j, g, h, c);
      if (top) {
        V new_h, new_c;
        Cell::candidate(g, h, c, new_h, new_c);
        store(weight_u(i) + j, load(weight_u(i) + j) + member.logit * new_c);
        (Cell::kCells ? gc : gh) += member.logit * load(call_.weight_u.get() + j);
      } else {
        V passed = load(above + j);
        if (call_.masks) passed *= load_some<T>(call_.masks + at + j, left);
        gh += passed;
      }
      Cell::backward(g, h, c, gh, gc, d, dh, dc);
      for (int b = 0; b < 4; b++) {
        store(d_row + b * block_ + j, d[b]);
        store_some<T>(out + b * n + j, d[b], left);
      }
      store(grad_h + j, dh);
      store(grad_c + j, dc);
    }
    if (k > 0) fill_zero(grad_h + block_, padded<T>(n));
    put_seen(k, row);
  }

  void put_seen(int64_t k, int64_t row) const {
    const int64_t n = call_.n, width = call_.width(k), states = Cell::kResetsBefore ? 2 * n : n;
    const T* input = k ? call_.inputs + call_.at(k - 1, row) : call_.x + row * call_.m;
    T* to = call_.seen[k] + call_.position[row] * (states + width + 1);
    __builtin_memcpy(to, call_.hidden + call_.at(k, row), n * sizeof(T));
    __builtin_memcpy(to + states, input, width * sizeof(T));
    to[states + width] = 1;
  }

  // What of a cell that resets before depends on the gradient of r h.
  void differentiate_reset(int64_t k, int64_t i) {
    const int64_t n = call_.n, row = row_of(i), at = call_.at(k, row);
    T* out = call_.grad_gates[k] + call_.position[row] * 4 * n + n;
    T* reset_h = call_.seen[k] + call_.position[row] * (2 * n + call_.width(k) + 1) + n;
    T *grad_h = hidden(k, i), *d_row = gates(i) + block_;
    for (int64_t j = 0; j < n; j += kLanes<T>) {
      V g[4], h, c;
      load_kept(at, j, g, h, c);
      const V grad = load(&reset_[i * block_] + j), d = grad * h * g[1] * (1 - g[1]);
      store(d_row + j, d);
      store_some<T>(out + j, d, n - j);
      store_some<T>(reset_h + j, g[1] * h, n - j);
      store(grad_h + j, load(grad_h + j) + grad * g[1]);
    }
  }

  void finish(int64_t i) {
    const Member& member = members_[i];
    const int64_t s = member.s, n = call_.n;
    for (int64_t k = 0; k < call_.depth; k++) {
      const int64_t to = (k * call_.shape.count() + s) * n;
      store_row(call_.grad_initial_hidden + to, hidden(k, i), n);
      if (Cell::kCells) store_row(call_.grad_initial_cells + to, cells(k, i), n);
    }
    store_row(call_.grad_weight_u + s * n, weight_u(i), n);
    call_.grad_bias_u[s] = member.bias_u;
    call_.grad_initial_prob[s] = member.after.prob;
    call_.grad_initial_accum[s] = member.after.accum;
  }

  const Call& call_;
  std::vector<Member> members_;
  int64_t block_;
  Buffer<T> gates_, reset_, weight_u_;
  std::vector<Buffer<T>> hidden_, cells_;
};

template <class Call>
void with_hidden_cell(int cell, const Call& call) {
  switch (cell) {  // the order of CANDIDATES in candidates.py
    case 0: return call(LstmCell());
    case 1: return call(GruCell<false>());
    case 2: return call(GruCell<true>());
    default: __builtin_trap();
  }
}

}  // namespace
}  // namespace longrnn

using namespace longrnn;

EXPORT void longrnn_skip_recurrence_forward(
    int dtype, int cell, int64_t batch, int64_t T, int64_t n, const int64_t* cu_seqlens,
    int64_t sequences, const int64_t* lengths, int batch_first, int reverse, int threads,
    int64_t depth, int64_t m, const void* const* weights, const void* weight_u,
    const void* bias_u, const void* masks, const void* x, const void* hidden, const void* cells,
    const void* prob, const void* accum, void* output, void* updates, void* last_hidden,
    void* last_cells, void* last_prob, void* last_accum, void* gates, void* kept_hidden,
    void* kept_cells, void* inputs, void* gate) {
  const Shape shape{batch, T, n, sequences, cu_seqlens, lengths, bool(reverse)};
  with_real(dtype, [&](auto number) {
    using C = decltype(number);
    auto own = [](void* p) { return static_cast<C*>(p); };
    auto in = [](const void* p) { return static_cast<const C*>(p); };
    with_hidden_cell(cell, [&](auto definition) {
      using Call = SkipForward<SkipCall<decltype(definition), C>>;
      Call call{{shape, Rows(shape, batch_first), batch * T, n, m, depth, in(masks), in(hidden),
                 in(cells), own(gates), own(kept_hidden), own(kept_cells), own(inputs),
                 static_cast<SkipGate<C>*>(gate), nullptr, *in(bias_u), {}},
                gates != nullptr, in(x), in(prob),
                in(accum), own(output), own(last_hidden), own(last_cells),
                own(updates), own(last_prob), own(last_accum)};
      call.pack(weights, weight_u, batch * T <= kFew ? kFewRows : kForward);
      run_in_teams<ForwardTeam<Call>>(call, shape.count(), call.threads(threads),
                                      members_of(call.bytes()));
    });
  });
}

EXPORT void longrnn_skip_recurrence_backward(
    int dtype, int cell, int64_t batch, int64_t T, int64_t n, const int64_t* cu_seqlens,
    int64_t sequences, const int64_t* lengths, int batch_first, int reverse, int threads,
    int64_t depth, int64_t m, const void* const* weights, const void* weight_u,
    const void* masks, const void* x, void* gates, void* hidden, void* cells, void* inputs,
    void* gate, const void* position, const void* grad_output, const void* grad_updates, const void* grad_hidden,
    const void* grad_cells, const void* grad_prob, const void* grad_accum, void* const* grad_gates,
    void* const* seen, void* grad_initial_hidden, void* grad_initial_cells,
    void* grad_initial_prob, void* grad_initial_accum, void* grad_weight_u, void* grad_bias_u) {
  const Shape shape{batch, T, n, sequences, cu_seqlens, lengths, bool(reverse)};
  with_real(dtype, [&](auto number) {
    using C = decltype(number);
    auto own = [](void* p) { return static_cast<C*>(p); };
    auto in = [](const void* p) { return static_cast<const C*>(p); };
    with_hidden_cell(cell, [&](auto definition) {
      using Call = SkipBackward<SkipCall<decltype(definition), C>>;
      Call call{{shape, Rows(shape, batch_first), batch * T, n, m, depth, in(masks), nullptr,
                 nullptr, own(gates), own(hidden), own(cells), own(inputs),
                 static_cast<SkipGate<C>*>(gate), nullptr, 0, {}},
                in(x), static_cast<const int64_t*>(position), in(grad_output), in(grad_hidden), in(grad_cells), in(grad_updates),
                in(grad_prob), in(grad_accum),
                reinterpret_cast<C* const*>(grad_gates),
                reinterpret_cast<C* const*>(seen), own(grad_initial_hidden), own(grad_initial_cells), own(grad_initial_prob),
                own(grad_initial_accum), own(grad_weight_u), own(grad_bias_u)};
      call.pack(weights, weight_u, kBackward);
      run_in_teams<BackwardTeam<Call>>(call, shape.count(), call.threads(threads),
                                       members_of(call.bytes()));
    });
  });
}
