// One layer of LSTM or GRU cells whose units open by the clock. With `keep`, every unit is
// evaluated and what the gradient needs is kept; without, and without a leak, only the rows of
// open units are multiplied. Definition in words: src/longrnn/ops/phased_recurrence/plain.py.
#include <vector>

#include "clock.h"
#include "hidden_layer.h"
#include "number.h"
#include "plan.h"
#include "teams.h"

namespace longrnn {
namespace {

// The cells, with peepholes: w holds those of i, f and o.
struct PhasedLstm : LstmCell {
  static constexpr int kPeepholes = 3;

  template <class V>
  static void activate(V (&g)[4], V c, const V* w) {
    const V o = g[3];
    g[0] += w[0] * c;
    g[1] += w[1] * c;
    LstmCell::activate(g);
    g[3] = sigmoid(o + w[2] * (g[1] * c + g[0] * g[2]));  // it sees the candidate
  }
  // dw: what each peephole's gradient grows by.
  template <class V>
  static void backward(const V (&g)[4], V h, V c, V gh, V gc, const V* w, V (&d)[4], V& dh, V& dc,
                       V* dw) {
    const V new_c = g[1] * c + g[0] * g[2];
    const V by_o = gh * hyperbolic_tangent(new_c) * g[3] * (1 - g[3]);
    LstmCell::backward(g, h, c, gh, gc + by_o * w[2], d, dh, dc);
    dc += d[0] * w[0] + d[1] * w[1];
    dw[0] = d[0] * c;
    dw[1] = d[1] * c;
    dw[2] = d[3] * new_c;
  }
};
struct PhasedGru : GruCell<false> {
  static constexpr int kPeepholes = 0;

  template <class V>
  static void activate(V (&g)[4], V, const V*) { GruCell<false>::activate(g); }
  template <class V>
  static void backward(const V (&g)[4], V h, V c, V gh, V gc, const V*, V (&d)[4], V& dh, V& dc,
                       V*) {
    GruCell<false>::backward(g, h, c, gh, gc, d, dh, dc);
  }
};

template <class Cell_, class T_>
struct PhasedCall {
  using Cell = Cell_;
  using T = T_;

  Shape shape;
  Rows rows;
  int64_t n, m;
  const T *weight_ih, *weight_hh, *bias, *x, *initial_hidden, *initial_cells;
  const double* times;
  Clock<T> clock;
  Buffer<T> peepholes;                      // (3, padded n)
  T *gates, *seen, *cells;             // kept: activations, [h | x | 1] and c before the step
  HiddenLayer<T, Cell> layer;

  int64_t row(int64_t s, int64_t t) const {
    return rows.at(shape, s, shape.reverse ? shape.steps(s) - 1 - t : t);
  }
  int64_t seen_row() const { return n + m + 1; }

  // Multiply-adds of a mean step if only open units are multiplied.
  double open_products() const {
    double open = 0;
    for (int64_t j = 0; j < n; j++) open += double(clock.on_ratio[j]);
    return open * 4 * double(n + m);
  }

  void load_peepholes(const T* given) {
    const int64_t block = padded<T>(n);
    peepholes = zeros<T>(3 * block);
    for (int b = 0; given && b < Cell::kPeepholes; b++)
      load_row(&peepholes[b * block], given + b * n, n);
  }
  void peepholes_at(int64_t j, Vector<T> (&w)[3]) const {
    for (int b = 0; b < 3; b++) w[b] = load(&peepholes[b * padded<T>(n) + j]);
  }
};

template <class Base>
struct PhasedForward : Base {
  using typename Base::T;
  bool keep;
  T *output, *last_hidden, *last_cells;

  void fill_padding(int64_t s) const {
    const int64_t n = this->n;
    if (this->shape.cu_seqlens) return;
    for (int64_t t = this->shape.steps(s); t < this->shape.T; t++) {
      const int64_t row = this->rows.at(this->shape, s, t);
      fill_zero(output + row * n, n);
      if (keep) fill_zero(this->seen + row * this->seen_row(), this->seen_row());
    }
  }
};

// Multiply-adds of a step from which threads gain by sharing it: a meeting takes a fraction of a
// microsecond.
constexpr double kWorthMeeting = 1 << 14;

// Every unit of every step.
template <class Call>
class ForwardTeam {
  using Cell = typename Call::Cell;
  using T = typename Call::T;
  using V = Vector<T>;

 public:
  ForwardTeam(const Call& call, int64_t count)
      : call_(call), members_(count), block_(call.layer.block),
        gates_(zeros<T>(count * 4 * block_)), states_(zeros<T>(count * call.layer.state_row())),
        cells_(zeros<T>(count * block_)), phase_(zeros<T>(block_)) {}

  bool enter(int64_t i, int64_t s) {
    members_[i] = {s, 0, call_.shape.steps(s)};
    load_row(state(i), call_.initial_hidden + s * call_.n, call_.n);
    if (Cell::kCells) load_row(cell(i), call_.initial_cells + s * call_.n, call_.n);
    return seek(i);
  }

  bool seek(int64_t i) {
    if (members_[i].t < members_[i].steps) return true;
    const int64_t s = members_[i].s;
    store_row(call_.last_hidden + s * call_.n, state(i), call_.n);
    if (Cell::kCells) store_row(call_.last_cells + s * call_.n, cell(i), call_.n);
    call_.fill_padding(s);
    return false;
  }

  void step(int64_t count) {
    for (int64_t i = 0; i < count; i++) {
      load_row(state(i) + block_, call_.x + row_of(i) * call_.m, call_.m);
      __builtin_memcpy(gates(i), call_.layer.bias.get(), 4 * block_ * sizeof(T));
    }
    call_.layer.add_products(count, states_.get(), gates_.get());
    for (int64_t i = 0; i < count; i++) {
      evaluate(i);
      members_[i].t++;
    }
  }

  void move(int64_t from, int64_t to) {
    members_[to] = members_[from];
    __builtin_memcpy(state(to), state(from), block_ * sizeof(T));
    __builtin_memcpy(cell(to), cell(from), block_ * sizeof(T));
  }

 private:
  struct Member {
    int64_t s, t, steps;
  };

  int64_t row_of(int64_t i) const { return call_.row(members_[i].s, members_[i].t); }
  T* state(int64_t i) { return &states_[i * call_.layer.state_row()]; }
  T* cell(int64_t i) { return &cells_[i * block_]; }
  T* gates(int64_t i) { return &gates_[i * 4 * block_]; }

  void evaluate(int64_t i) {
    const int64_t row = row_of(i), n = call_.n;
    T *p = gates(i), *h = state(i), *c = Cell::kCells ? cell(i) : h;
    T* seen = call_.keep ? call_.seen + row * call_.seen_row() : nullptr;
    call_.clock.phases(call_.times[row], phase_.get(), nullptr);
    if (seen) {
      __builtin_memcpy(seen + n, call_.x + row * call_.m, call_.m * sizeof(T));
      seen[n + call_.m] = 1;
    }
    for (int64_t j = 0; j < n; j += kLanes<T>) {
      const int64_t left = n - j;
      V g[4], w[3], new_h, new_c;
      const V before_h = load(h + j), before_c = load(c + j);
      for (int b = 0; b < 4; b++) g[b] = load(p + b * block_ + j);
      call_.peepholes_at(j, w);
      Cell::activate(g, before_c, w);
      Cell::candidate(g, before_h, before_c, new_h, new_c);
      if (seen) {
        for (int b = 0; b < 4; b++)
          store_some<T>(call_.gates + (4 * row + b) * n + j, g[b], left);
        store_some<T>(seen + j, before_h, left);
        if (Cell::kCells) store_some<T>(call_.cells + row * n + j, before_c, left);
      }
      const V k = call_.clock.opening(phase_.get(), j).k;
      const V after = before_h + k * (new_h - before_h);
      store(h + j, after);
      if (Cell::kCells) store(c + j, before_c + k * (new_c - before_c));
      store_some<T>(call_.output + row * n + j, after, left);
    }
  }

  const Call& call_;
  std::vector<Member> members_;
  int64_t block_;
  Buffer<T> gates_, states_, cells_, phase_;
};

// h of one sequence, for all threads that share its units: each reads what all wrote before.
template <class T>
struct SharedHidden {
  explicit SharedHidden(int64_t block) : of{zeros<T>(block), zeros<T>(block)} {}

  Buffer<T> of[2];  // before and after a step, in turn
  Meeting meeting;
};

// Only the open units, one sequence after the other: a closed one keeps its state bit by bit.
// Threads that share a sequence have a stretch of its units each, and meet after every step.
template <class Call>
class OpenUnits {
  using Cell = typename Call::Cell;
  using T = typename Call::T;
  using V = Vector<T>;

 public:
  OpenUnits(const Call& call, SharedHidden<T>& hidden, int part, int parts)
      : call_(call), hidden_(hidden), parts_(parts), block_(padded<T>(call.n)),
        begin_(bound(part)), end_(bound(part + 1)), open_(call.n), c_(zeros<T>(block_)),
        x_(zeros<T>(padded<T>(call.m))), phase_(zeros<T>(block_)), opening_(zeros<T>(block_)),
        work_(zeros<T>(kRows * block_)) {}

  void run(int64_t s) {
    const int64_t own = s * call_.n + begin_, width = end_ - begin_;
    load_row(after() + begin_, call_.initial_hidden + own, width);
    if (Cell::kCells) load_row(&c_[begin_], call_.initial_cells + own, width);
    meet();
    for (int64_t t = 0; t < call_.shape.steps(s); t++) {
      const int64_t row = call_.row(s, t), count = find_open(call_.times[row]);
      load_row(after() + begin_, before() + begin_, width);
      if (count > 0) update(row, count);
      store_row(call_.output + row * call_.n + begin_, after() + begin_, width);
      meet();
    }
    store_row(call_.last_hidden + own, before() + begin_, width);
    if (Cell::kCells) store_row(call_.last_cells + own, &c_[begin_], width);
    if (begin_ == 0) call_.fill_padding(s);
  }

 private:
  enum { kH = 4, kC, kOpen, kPeepholes, kRows = kPeepholes + 3 };  // work rows after 4 gates

  // Where a part begins, whole vectors from the first unit.
  int64_t bound(int part) const {
    const int64_t unit = block_ / kLanes<T> * part / parts_ * kLanes<T>;
    return unit < call_.n ? unit : call_.n;
  }

  T* before() { return hidden_.of[turn_].get(); }
  T* after() { return hidden_.of[1 - turn_].get(); }
  void meet() {
    if (parts_ > 1) hidden_.meeting.wait_for_all(parts_);
    turn_ = 1 - turn_;
  }

  int64_t find_open(double t) {
    call_.clock.phases(t, begin_, end_, phase_.get(), nullptr);
    int64_t count = 0;
    for (int64_t j = begin_; j < end_; j += kLanes<T>) {
      const V k = call_.clock.opening(phase_.get(), j).k;
      store(&opening_[j], k);
      const int64_t end = end_ - j < kLanes<T> ? end_ - j : kLanes<T>;
      for (uint64_t lanes = lanes_not_zero<T>(k); lanes; lanes &= lanes - 1)
        if (const int lane = __builtin_ctzll(lanes); lane < end) open_[count++] = j + lane;
    }
    return count;
  }

  T* work(int row) { return &work_[row * block_]; }

  void update(int64_t row, int64_t count) {
    const int64_t n = call_.n, m = call_.m;
    const T* h = before();
    load_row(x_.get(), call_.x + row * m, m);
    for (int64_t i = 0; i < count; i++) {
      const int64_t j = open_[i];
      V sum[4] = {};
      if constexpr (Cell::kGates == 4) {
        add_dot_products<T, 4>(h, call_.weight_hh + j * n, n * n, n, sum);
        add_dot_products<T, 4>(x_.get(), call_.weight_ih + j * m, n * m, m, sum);
      } else {  // the weights' rows are r, z, n; sum's are n from x, r, z, n from h
        add_dot_products<T, 3>(h, call_.weight_hh + j * n, n * n, n, sum + 1);
        add_dot_products<T, 2>(x_.get(), call_.weight_ih + j * m, n * m, m, sum + 1);
        add_dot_products<T, 1>(x_.get(), call_.weight_ih + (2 * n + j) * m, 0, m, sum);
      }
      for (int b = 0; b < 4; b++) work(b)[i] = sum_of<T>(sum[b]) + call_.bias[b * n + j];
      work(kH)[i] = h[j];
      work(kC)[i] = c_[j];
      work(kOpen)[i] = opening_[j];
      for (int b = 0; b < Cell::kPeepholes; b++)
        work(kPeepholes + b)[i] = call_.peepholes[b * block_ + j];
    }
    for (int64_t i = 0; i < count; i += kLanes<T>) {
      V g[4], w[3] = {}, new_h, new_c;
      for (int b = 0; b < 4; b++) g[b] = load(work(b) + i);
      for (int b = 0; b < Cell::kPeepholes; b++) w[b] = load(work(kPeepholes + b) + i);
      const V h = load(work(kH) + i), c = load(work(kC) + i), k = load(work(kOpen) + i);
      Cell::activate(g, c, w);
      Cell::candidate(g, h, c, new_h, new_c);
      store(work(kH) + i, h + k * (new_h - h));
      store(work(kC) + i, c + k * (new_c - c));
    }
    for (int64_t i = 0; i < count; i++) {
      after()[open_[i]] = work(kH)[i];
      if (Cell::kCells) c_[open_[i]] = work(kC)[i];
    }
  }

  const Call& call_;
  SharedHidden<T>& hidden_;
  int parts_, turn_ = 0;
  int64_t block_, begin_, end_;
  std::vector<int64_t> open_;
  Buffer<T> c_, x_, phase_, opening_, work_;
};

// Fewer sequences than threads share these, if a step is worth meeting for.
template <class Call>
void run_open_units(const Call& call, int threads) {
  using T = typename Call::T;
  const int64_t count = call.shape.count(), block = padded<T>(call.n);
  std::atomic<int64_t> next{0};
  if (count < threads && call.open_products() >= kWorthMeeting) {
    SharedHidden<T> hidden(block);
    auto body = [&] {
      const int part = int(next.fetch_add(1, std::memory_order_relaxed));
      OpenUnits<Call> units(call, hidden, part, threads_here(threads));
      for (int64_t s = 0; s < count; s++) units.run(s);
    };
    return on_threads(threads, body);
  }
  auto body = [&] {
    SharedHidden<T> hidden(block);
    OpenUnits<Call> units(call, hidden, 0, 1);
    for (int64_t s; (s = next.fetch_add(1, std::memory_order_relaxed)) < count;) units.run(s);
  };
  on_threads(int(threads < count ? threads : count), body);
}

template <class Base>
struct PhasedBackward : Base {
  using typename Base::T;
  const T *grad_output, *grad_hidden, *grad_cells;  // any of the incoming may be null
  T *grad_gates, *grad_initial_hidden, *grad_initial_cells;
  double* grad_times;  // null where not asked for
  T *grad_peepholes, *grad_clock;  // (sequences, 3, n) each; the clock's: period, shift, on_ratio
};

template <class Call>
class BackwardTeam {
  using Cell = typename Call::Cell;
  using T = typename Call::T;
  using V = Vector<T>;

 public:
  BackwardTeam(const Call& call, int64_t count)
      : call_(call), members_(count), block_(call.layer.block),
        gates_(zeros<T>(count * 4 * block_)),
        hidden_(zeros<T>(count * call.layer.gradient_row())), cells_(zeros<T>(count * block_)),
        sums_(zeros<T>(count * 6 * block_)),
        phase_(zeros<T>(block_)), cycles_(zeros<T>(block_)) {}

  bool enter(int64_t i, int64_t s) {
    members_[i] = {s, call_.shape.steps(s) - 1};
    fill_zero(hidden(i), block_);
    fill_zero(cells(i), block_);
    fill_zero(sums(i), 6 * block_);
    if (call_.grad_hidden) load_row(hidden(i), call_.grad_hidden + s * call_.n, call_.n);
    if (call_.grad_cells) load_row(cells(i), call_.grad_cells + s * call_.n, call_.n);
    return seek(i);
  }

  bool seek(int64_t i) {
    if (members_[i].t >= 0) return true;
    const int64_t s = members_[i].s, n = call_.n;
    store_row(call_.grad_initial_hidden + s * n, hidden(i), n);
    if (Cell::kCells) store_row(call_.grad_initial_cells + s * n, cells(i), n);
    for (int b = 0; b < 3; b++) {
      store_row(call_.grad_peepholes + (3 * s + b) * n, sums(i) + b * block_, n);
      store_row(call_.grad_clock + (3 * s + b) * n, sums(i) + (3 + b) * block_, n);
    }
    if (call_.shape.cu_seqlens) return false;
    for (int64_t t = call_.shape.steps(s); t < call_.shape.T; t++) {
      const int64_t row = call_.rows.at(call_.shape, s, t);
      fill_zero(call_.grad_gates + 4 * row * n, 4 * n);
      if (call_.grad_times) call_.grad_times[row] = 0;
    }
    return false;
  }

  void step(int64_t count) {
    for (int64_t i = 0; i < count; i++) differentiate(i);
    call_.layer.add_gradients(count, gates_.get(), hidden_.get());
    for (int64_t i = 0; i < count; i++) members_[i].t--;
  }

  void move(int64_t from, int64_t to) {
    members_[to] = members_[from];
    __builtin_memcpy(hidden(to), hidden(from), block_ * sizeof(T));
    __builtin_memcpy(cells(to), cells(from), block_ * sizeof(T));
    __builtin_memcpy(sums(to), sums(from), 6 * block_ * sizeof(T));
  }

 private:
  struct Member {
    int64_t s, t;
  };

  T* hidden(int64_t i) { return &hidden_[i * call_.layer.gradient_row()]; }
  T* cells(int64_t i) { return &cells_[i * block_]; }
  T* gates(int64_t i) { return &gates_[i * 4 * block_]; }
  T* sums(int64_t i) { return &sums_[i * 6 * block_]; }

  void differentiate(int64_t i) {
    const int64_t n = call_.n, row = call_.row(members_[i].s, members_[i].t);
    const T* seen = call_.seen + row * call_.seen_row();
    const T* grad = call_.grad_output ? call_.grad_output + row * n : nullptr;
    T *grad_h = hidden(i), *grad_c = cells(i), *sum = sums(i);
    call_.clock.phases(call_.times[row], phase_.get(), cycles_.get());
    V by_time = {};
    for (int64_t j = 0; j < n; j += kLanes<T>) {
      const int64_t left = n - j;
      V g[4], d[4], w[3], dw[3] = {}, new_h, new_c, dh, dc;
      V gh = load(grad_h + j), gc = load(grad_c + j);
      if (grad) gh += load_some<T>(grad + j, left);
      for (int b = 0; b < 4; b++) g[b] = load_some<T>(call_.gates + (4 * row + b) * n + j, left);
      const V h = load_some<T>(seen + j, left);
      const V c = Cell::kCells ? load_some<T>(call_.cells + row * n + j, left) : h;
      call_.peepholes_at(j, w);
      Cell::candidate(g, h, c, new_h, new_c);
      V by_k = gh * (new_h - h);
      if (Cell::kCells) by_k += gc * (new_c - c);
      const auto opening = call_.clock.opening(phase_.get(), j);
      Cell::backward(g, h, c, opening.k * gh, opening.k * gc, w, d, dh, dc, dw);
      for (int b = 0; b < 4; b++) {
        store(gates(i) + b * block_ + j, d[b]);
        store_some<T>(call_.grad_gates + (4 * row + b) * n + j, d[b], left);
      }
      store(grad_h + j, (1 - opening.k) * gh + dh);
      store(grad_c + j, (1 - opening.k) * gc + dc);
      // The phase moves by 1 / period with the time, and against the shift.
      const V by_since = by_k * opening.slope * load(&call_.clock.narrow_frequency[j]);
      by_time += by_since;
      const V grown[] = {dw[0], dw[1], dw[2], -by_since * load(&cycles_[j]), -by_since,
                         by_k * opening.by_ratio};
      for (int b = 0; b < 6; b++)
        store(sum + b * block_ + j, load(sum + b * block_ + j) + grown[b]);
    }
    if (call_.grad_times) call_.grad_times[row] = sum_of<T>(by_time);
  }

  const Call& call_;
  std::vector<Member> members_;
  int64_t block_;
  Buffer<T> gates_, hidden_, cells_, sums_, phase_, cycles_;
};

template <class Call>
void with_phased_cell(int cell, const Call& call) {
  switch (cell) {  // the order of CANDIDATES in candidates.py
    case 0: return call(PhasedLstm());
    case 1: return call(PhasedGru());
    default: __builtin_trap();
  }
}

}  // namespace
}  // namespace longrnn

using namespace longrnn;

EXPORT void longrnn_phased_recurrence_forward(
    int dtype, int cell, int64_t batch, int64_t T, int64_t n, const int64_t* cu_seqlens,
    int64_t sequences, const int64_t* lengths, int batch_first, int reverse, int threads,
    int64_t m, int sparse, double leak, const void* weight_ih, const void* weight_hh,
    const void* bias, const void* x, const void* hidden, const void* cells, const double* times,
    const void* period, const void* shift, const void* on_ratio, const void* peepholes,
    void* output, void* last_hidden, void* last_cells, void* gates, void* seen,
    void* kept_cells) {
  const Shape shape{batch, T, n, sequences, cu_seqlens, lengths, bool(reverse)};
  with_real(dtype, [&](auto number) {
    using C = decltype(number);
    auto own = [](void* p) { return static_cast<C*>(p); };
    auto in = [](const void* p) { return static_cast<const C*>(p); };
    with_phased_cell(cell, [&](auto definition) {
      using Cell = decltype(definition);
      using Call = PhasedForward<PhasedCall<Cell, C>>;
      Call call{{shape, Rows(shape, batch_first), n, m, in(weight_ih), in(weight_hh), in(bias),
                 in(x), in(hidden), in(cells), times,
                 Clock<C>(n, in(period), in(shift), in(on_ratio), leak), nullptr, own(gates),
                 own(seen), own(kept_cells),
                 sparse ? HiddenLayer<C, Cell>()
                        : HiddenLayer<C, Cell>(n, m, in(weight_ih), in(weight_hh), in(bias), kForward)},
                gates != nullptr, own(output), own(last_hidden), own(last_cells)};
      call.load_peepholes(in(peepholes));
      const int granted = threads_for(batch * T * 4 * n * (n + m), threads);
      if (!sparse)
        return run_in_teams<ForwardTeam<Call>>(call, shape.count(), granted,
                                               members_of(call.layer.bytes()));
      run_open_units(call, granted);
    });
  });
}

EXPORT void longrnn_phased_recurrence_backward(
    int dtype, int cell, int64_t batch, int64_t T, int64_t n, const int64_t* cu_seqlens,
    int64_t sequences, const int64_t* lengths, int batch_first, int reverse, int threads,
    int64_t m, double leak, const void* weight_ih, const void* weight_hh, const void* bias,
    const double* times, const void* period, const void* shift, const void* on_ratio,
    const void* peepholes, void* gates, void* seen, void* cells, const void* grad_output,
    const void* grad_hidden, const void* grad_cells, void* grad_gates, void* grad_initial_hidden,
    void* grad_initial_cells, double* grad_times, void* grad_peepholes, void* grad_clock) {
  const Shape shape{batch, T, n, sequences, cu_seqlens, lengths, bool(reverse)};
  with_real(dtype, [&](auto number) {
    using C = decltype(number);
    auto own = [](void* p) { return static_cast<C*>(p); };
    auto in = [](const void* p) { return static_cast<const C*>(p); };
    with_phased_cell(cell, [&](auto definition) {
      using Cell = decltype(definition);
      using Call = PhasedBackward<PhasedCall<Cell, C>>;
      Call call{{shape, Rows(shape, batch_first), n, m, nullptr, nullptr, nullptr, nullptr,
                 nullptr, nullptr, times,
                 Clock<C>(n, in(period), in(shift), in(on_ratio), leak), nullptr, own(gates),
                 own(seen), own(cells),
                 HiddenLayer<C, Cell>(n, 0, in(weight_ih), in(weight_hh), in(bias), kBackward)},
                in(grad_output), in(grad_hidden), in(grad_cells), own(grad_gates),
                own(grad_initial_hidden), own(grad_initial_cells), grad_times,
                own(grad_peepholes), own(grad_clock)};
      call.load_peepholes(in(peepholes));
      run_in_teams<BackwardTeam<Call>>(call, shape.count(), threads_for(batch * T * 4 * n * n, threads),
                                       members_of(call.layer.bytes()));
    });
  });
}
