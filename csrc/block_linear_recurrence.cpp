// h_t = A_t h_{t-1} + x_t with n x n matrices over (outer, T, inner), and its gradient.
//
// Up to n = 8 a lane of a vector is a sequence: operands are transposed on their way in and out of
// the cache. Where there are few sequences, a lane is a piece of one: each lane first finds what
// its piece does to any state, then the states before all pieces are known, then each runs its own
// from the cache. Threads share groups of sequences, and where those are too few, time as well: a
// tile waits for the state before it as in plan.h. Beyond n = 8 matrices are wider than vectors,
// and a sequence is walked row by row.

#include <algorithm>

#include "block.h"
#include "dense.h"
#include "parallel.h"
#include "plan.h"

namespace longrnn {
namespace {

struct Blocks {
  int64_t outer, T, inner, n;
  bool down;  // whether time runs down in memory
  int64_t sequences() const { return outer * inner; }
};

// An operand as (outer, T, inner, numbers of a step), with strides in real numbers.
template <class Stored>
struct Steps {
  Stored* data;
  int64_t outer, time, inner, count;
  bool streamed = false;  // whether it is written past the cache, where it can be
};

// Steps in memory that a group of sequences takes: each of its sequences is cut into `segments`
// of `steps` steps, side by side in the lanes.
struct Piece {
  int64_t first, steps, segments;
};

// Where a group's lanes begin in an operand, and whether a step of theirs lies end to end.
template <class T>
struct Chains {
  int64_t begin[kLanes<T>];
  bool together;
};

// A group: its first sequence, how many there are, and lanes.
template <class T>
struct Group {
  int64_t sequence, count, live;
  Chains<T> a, x, grad_a;
};

struct BlockPlan {
  int threads;
  int64_t segments, group, groups, width;  // of a sequence; sequences a group; groups, and a task's
  int64_t steps;                           // a piece
  bool split;                              // over time

  // The pieces of a sequence in the order of time: full ones, a shorter one, and what is left.
  int64_t pieces(int64_t T) const {
    const int64_t full = T / (segments * steps), rest = T % (segments * steps);
    return full + (rest >= segments) + (rest % segments > 0);
  }
  Piece piece(const Blocks& shape, int64_t k) const {
    const int64_t full = shape.T / (segments * steps), rest = shape.T % (segments * steps);
    int64_t begin = segments * steps * full;
    Piece piece{0, rest / segments, segments};
    if (k < full) {
      begin = segments * steps * k;
      piece.steps = steps;
    } else if (k > full || rest < segments) {
      begin += rest - rest % segments;
      piece = {0, rest % segments, 1};
    }
    piece.first = shape.down ? shape.T - begin - piece.steps * piece.segments : begin;
    return piece;
  }
};

constexpr int64_t kSmall = 1 << 16;      // matrix elements below which one thread does it all
constexpr int64_t kTile = 64 << 10;      // bytes of the matrices of a piece, taken apart
constexpr int64_t kBurst = 4 << 10;      // bytes read at one place, at least
constexpr int64_t kCall = 1 << 10;       // bytes of matrices that are worth a call
constexpr int64_t kCarries = 16 << 10;   // bytes of what a task keeps from step to step

template <class T>
BlockPlan make_block_plan(const Blocks& shape, int parts, int threads) {
  const int64_t sequences = shape.sequences(), size = shape.n * shape.n * parts;
  const int64_t lanes = kLanes<T>, bytes = int64_t(sizeof(T)) * size;
  BlockPlan plan{threads, 1, lanes, 0, 1, kTile / (lanes * bytes), false};
  if (sequences * shape.T * size < kSmall || threads < 1) plan.threads = 1;
  if (plan.steps < 1) plan.steps = 1;
  if (2 * sequences <= lanes && shape.T >= 2 * (lanes / sequences)) {
    plan.segments = lanes / sequences;
    plan.group = sequences;
  }
  plan.groups = ceil_div(sequences, plan.group);
  plan.split = plan.segments > 1 || (plan.groups < plan.threads && shape.T >= 2 * plan.steps);
  if (!plan.split) {
    // Rows of memory are walked in order.
    const int64_t burst = std::max(ceil_div(kBurst, shape.inner * bytes),
                                   ceil_div(kCall, lanes * bytes));
    if (burst < plan.steps) plan.steps = burst;
    plan.width = ceil_div(shape.inner, lanes);
    const int64_t kept = lanes * shape.n * parts * sizeof(T) + sizeof(Group<T>);
    const int64_t share = ceil_div(plan.groups, plan.threads), most = kCarries / kept;
    if (plan.width > share) plan.width = share;
    if (plan.width > most) plan.width = most;
  }
  return plan;
}

// Chains of a vector or more that lie end to end are read and written in their order, and taken
// apart in the first cache: chain by chain would be an order that no processor foresees.
template <class T>
struct Staging {
  alignas(kVectorBytes) T numbers[2 * kLargestBlock * kLargestBlock * kLanes<T>];
  int64_t begin[kLanes<T>];

  explicit Staging(int64_t count) {
    for (int64_t l = 0; l < kLanes<T>; l++) begin[l] = l * count;
  }
};

template <class T, class Stored>
void read_piece(const Steps<const Stored>& x, const Chains<T>& chains, const Piece& piece,
                bool down, T* to) {
  const Stored* from = x.data + piece.first * x.time;
  const int64_t all = x.count * kLanes<T>;
  if (x.time == x.count) return gather(from, chains.begin, piece.steps * x.count, to);
  const Stored* first = from + chains.begin[0];
  const int64_t ahead = down ? -piece.steps * x.time : piece.steps * x.time;
  if (chains.together && gather_together(first, x.time, piece.steps, x.count, ahead, to)) return;
  if (!chains.together || x.count < kLanes<T>) {
    for (int64_t r = 0; r < piece.steps; r++)
      gather(from + r * x.time, chains.begin, x.count, to + r * all);
    return;
  }
  Staging<T> room(x.count);
  for (int64_t r = 0; r < piece.steps; r++) {
    load_row(room.numbers, first + r * x.time, all);
    gather<T>(room.numbers, room.begin, x.count, to + r * all);
  }
}

template <class T, class Stored>
void write_row(Stored* to, const T* from, int64_t count, bool streamed) {
  if constexpr (std::is_same_v<Stored, T>)
    if (streamed && uintptr_t(to) % kVectorBytes == 0) {
      for (int64_t c = 0; c < count; c += kLanes<T>) stream(to + c, load(from + c));
      return;
    }
  store_row(to, from, count);
}

template <class T, class Stored>
void write_piece(const Steps<Stored>& x, const Chains<T>& chains, int64_t live, const Piece& piece,
                 const T* from) {
  Stored* to = x.data + piece.first * x.time;
  const int64_t all = x.count * kLanes<T>;
  if (x.time == x.count) return scatter(to, chains.begin, live, piece.steps * x.count, from);
  Stored* first = to + chains.begin[0];
  if (chains.together &&
      scatter_together(first, x.time, piece.steps, x.count, x.streamed, from))
    return;
  if (!chains.together || x.count < kLanes<T>) {
    for (int64_t r = 0; r < piece.steps; r++)
      scatter(to + r * x.time, chains.begin, live, x.count, from + r * all);
    return;
  }
  Staging<T> room(x.count);
  for (int64_t r = 0; r < piece.steps; r++) {
    scatter(room.numbers, room.begin, live, x.count, from + r * all);
    write_row(first + r * x.time, room.numbers, all, x.streamed);
  }
}

// One direction of the op. `x` are the impulses, or the gradient of the states; `h` the states,
// or the gradient of the impulses.
template <class Stored, class Number, bool kAdjoint>
struct Job {
  using T = typename Number::Real;
  static constexpr int kParts = Number::kParts;
  using Scalar = std::conditional_t<kParts == 1, T, Complex<T>>;
  const Blocks& shape;
  BlockSteps<T> run_steps;
  Steps<const Stored> a, x;
  Steps<Stored> h, grad_a;
  const Stored *initial, *states;
  Stored* grad_initial;

  int64_t state_size() const { return x.count * kLanes<T>; }
  int64_t scratch_size(int64_t steps) const {
    return steps * kLanes<T> * (kAdjoint ? 2 * a.count + 3 * x.count : a.count + 2 * x.count);
  }
  struct Scratch {
    T *a, *x, *h, *before, *grad_a;
  };
  Scratch scratch(T* memory, int64_t steps) const {
    const int64_t state = steps * state_size(), matrices = steps * a.count * kLanes<T>;
    T* after = memory + matrices + 2 * state;
    return {memory, memory + matrices, memory + matrices + state, after, after + state};
  }

  Group<T> group(const BlockPlan& plan, int64_t index, const Piece& piece) const {
    Group<T> g;
    g.sequence = index * plan.group;
    const int64_t rest = shape.sequences() - g.sequence;
    g.count = rest < plan.group ? rest : plan.group;
    g.live = g.count * piece.segments;
    g.a = chains(a, g, piece);
    g.x = chains(x, g, piece);
    if (grad_a.data) g.grad_a = chains(grad_a, g, piece);
    return g;
  }
  template <class Element>
  Chains<T> chains(const Steps<Element>& operand, const Group<T>& g, const Piece& piece) const {
    Chains<T> c;
    c.together = g.live == kLanes<T>;
    for (int64_t l = 0; l < kLanes<T>; l++) {
      const int64_t lane = l < g.live ? l : 0;  // the others repeat the first
      const int64_t s = g.sequence + lane / piece.segments;
      c.begin[l] = s / shape.inner * operand.outer + s % shape.inner * operand.inner +
                   lane % piece.segments * piece.steps * operand.time;
      c.together &= c.begin[l] == c.begin[0] + l * operand.count;
    }
    return c;
  }

  // Sequence s of the group is lane s of a state, whatever the lanes of its pieces.
  void start(const Group<T>& g, T* state) const {
    for (int64_t k = 0; k < state_size(); k++) state[k] = T(0);
    if (!kAdjoint && initial) copy_initial(g, 0, state);
  }
  void copy_initial(const Group<T>& g, int64_t first_lane, T* state, int64_t segments = 1) const {
    for (int64_t s = 0; s < g.count; s++)
      for (int64_t k = 0; k < x.count; k++)
        state[k * kLanes<T> + s * segments + first_lane] =
            initial ? T(initial[(g.sequence + s) * x.count + k]) : T(0);
  }

  void load(const Group<T>& g, const Piece& piece, const Scratch& to) const {
    read_piece<T>(a, g.a, piece, shape.down, to.a);
    read_piece<T>(x, g.x, piece, shape.down, to.x);
    if constexpr (kAdjoint)
      if (grad_a.data) load_before(g, piece, to.before);
  }

  // The state before each step: the one that lies before it in memory, or after it.
  void load_before(const Group<T>& g, const Piece& piece, T* to) const {
    const int64_t next = shape.down ? -1 : 1, edge = shape.down ? 0 : piece.steps - 1;
    const Steps<const Stored> h_steps{states, x.outer, x.time, x.inner, x.count};
    Piece inside = piece;
    inside.steps--;
    if (!shape.down) inside.first++;
    read_piece<T>(h_steps, g.x, inside, shape.down, to + (shape.down ? state_size() : 0));
    // Of a segment's first step it belongs to the segment before, or is the initial state.
    const bool is_first = shape.down ? piece.first == 0
                                     : piece.first + piece.steps * piece.segments == shape.T;
    const int64_t first_lane = shape.down ? 0 : piece.segments - 1;
    T* edge_state = to + edge * state_size();
    const Piece neighbour{piece.first + edge + next, 1, 1};
    if (!is_first) return read_piece(h_steps, g.x, neighbour, shape.down, edge_state);
    int64_t from[kLanes<T>];
    for (int64_t l = 0; l < kLanes<T>; l++) {
      const bool outside = l % piece.segments == first_lane || l >= g.live;
      from[l] = g.x.begin[l] + (piece.first + edge + (outside ? 0 : next)) * x.time;
    }
    gather(states, from, x.count, edge_state);
    copy_initial(g, first_lane, edge_state, piece.segments);
  }

  void reduce(const Piece& piece, const Scratch& in, T* partial, T* product) const {
    run_steps.reduce[kAdjoint](piece.steps, shape.down, in.a, in.x, partial, product);
  }

  void finish_piece(const Group<T>& g, const Piece& piece, const Scratch& in, T* carry) const {
    if constexpr (kAdjoint)
      run_steps.adjoint(piece.steps, shape.down, in.a, in.x, in.before, carry, in.h,
                        grad_a.data ? in.grad_a : nullptr);
    else
      run_steps.forward(piece.steps, shape.down, in.a, in.x, carry, in.h);
    write_piece(h, g.x, g.live, piece, in.h);
    if constexpr (kAdjoint) {
      if (grad_a.data) write_piece(grad_a, g.grad_a, g.live, piece, in.grad_a);
    }
  }

  void finish(const Group<T>& g, const T* state) const {
    if constexpr (kAdjoint)
      for (int64_t s = 0; s < g.count; s++)
        for (int64_t k = 0; k < x.count; k++)
          grad_initial[(g.sequence + s) * x.count + k] = Stored(state[k * kLanes<T> + s]);
  }

  static Scalar get(const T* p, int64_t k, int64_t lane) {
    if constexpr (kParts == 1)
      return p[k * kLanes<T> + lane];
    else
      return {p[2 * k * kLanes<T> + lane], p[(2 * k + 1) * kLanes<T> + lane]};
  }
  static void set(T* p, int64_t k, int64_t lane, Scalar value) {
    if constexpr (kParts == 1)
      p[k * kLanes<T> + lane] = value;
    else
      p[2 * k * kLanes<T> + lane] = value.re, p[(2 * k + 1) * kLanes<T> + lane] = value.im;
  }

  // From the state before a piece the states before its segments, and the one after it.
  void compose(const Group<T>& g, const Piece& piece, const T* partial, const T* product,
               const T* before, T* carry, T* after) const {
    Scalar v[kLargestBlock], w[kLargestBlock];
    const int64_t n = shape.n;
    for (int64_t k = 0; k < state_size(); k++) carry[k] = T(0);
    for (int64_t s = 0; s < g.count; s++) {
      for (int64_t i = 0; i < n; i++) v[i] = get(before, i, s);
      for (int64_t k = 0; k < piece.segments; k++) {
        const int64_t lane = s * piece.segments + (shape.down ? piece.segments - 1 - k : k);
        for (int64_t i = 0; i < n; i++) {
          set(carry, i, lane, v[i]);
          w[i] = get(partial, i, lane);
        }
        for (int64_t j = 0; j < n; j++)
          for (int64_t i = 0; i < n; i++) w[i] = w[i] + get(product, j * n + i, lane) * v[j];
        for (int64_t i = 0; i < n; i++) v[i] = w[i];
      }
      for (int64_t i = 0; i < n; i++) set(after, i, s, v[i]);
    }
  }
};

// Each task walks its groups of sequences through all of time, side by side.
template <class Job, class T = typename Job::T>
void walk(const BlockPlan& plan, const Job& job) {
  const int64_t state = job.state_size(), T_all = job.shape.T;
  for_each_claimed(ceil_div(plan.groups, plan.width), plan.threads, [&](int64_t task) {
    const int64_t first = task * plan.width;
    const int64_t width = plan.groups - first < plan.width ? plan.groups - first : plan.width;
    T* carries = thread_buffer<T, 0>(width * state + job.scratch_size(plan.steps));
    const auto scratch = job.scratch(carries + width * state, plan.steps);
    auto* group = thread_buffer<Group<T>, 1>(width);
    for (int64_t g = 0; g < width; g++) {
      group[g] = job.group(plan, first + g, {0, 0, 1});
      job.start(group[g], carries + g * state);
    }
    for (int64_t begin = 0; begin < T_all; begin += plan.steps) {
      Piece piece{begin, T_all - begin < plan.steps ? T_all - begin : plan.steps, 1};
      if (job.shape.down) piece.first = T_all - begin - piece.steps;
      for (int64_t g = 0; g < width; g++) {
        job.load(group[g], piece, scratch);
        job.finish_piece(group[g], piece, scratch, carries + g * state);
      }
    }
    for (int64_t g = 0; g < width; g++) job.finish(group[g], carries + g * state);
    stream_fence();
  });
}

// Pieces of time are claimed in order; each waits for the state before it, as in plan.h.
template <class Job, class T = typename Job::T>
void walk_split(const BlockPlan& plan, const Job& job) {
  const int64_t state = job.state_size(), pieces = plan.pieces(job.shape.T), groups = plan.groups;
  auto ready = std::make_unique<std::atomic<int>[]>(pieces * groups);
  auto handed_on = std::make_unique<T[]>(pieces * groups * state);
  for_each_claimed(pieces * groups, plan.threads, [&](int64_t item) {
    const int64_t k = item / groups;
    const Piece piece = plan.piece(job.shape, k);
    const auto group = job.group(plan, item % groups, piece);
    T* start = thread_buffer<T, 0>((3 + job.shape.n) * state + job.scratch_size(plan.steps));
    T *carry = start + state, *partial = carry + state, *product = partial + state;
    const auto scratch = job.scratch(product + job.shape.n * state, plan.steps);
    T* after = &handed_on[item * state];
    job.load(group, piece, scratch);
    const bool reduced = piece.segments > 1 || (k > 0 && k + 1 < pieces);
    if (reduced) job.reduce(piece, scratch, partial, product);
    const T* before = start;
    if (k == 0) {
      job.start(group, start);
    } else {
      spin_until([&] { return ready[item - groups].load(std::memory_order_acquire) != 0; });
      before = &handed_on[(item - groups) * state];
    }
    auto publish = [&] { ready[item].store(1, std::memory_order_release); };
    if (reduced) {
      job.compose(group, piece, partial, product, before, carry, after);
      publish();
      job.finish_piece(group, piece, scratch, carry);
    } else {
      for (int64_t i = 0; i < state; i++) carry[i] = before[i];
      job.finish_piece(group, piece, scratch, carry);
      for (int64_t i = 0; i < state; i++) after[i] = carry[i];
      publish();
    }
    if (k + 1 == pieces) job.finish(group, after);
    stream_fence();
  });
}

// What a call is given: `x` and `h` as in Job, strides in numbers.
struct Arguments {
  int dtype;
  Blocks shape;
  int threads;
  const void* a;
  int64_t a_outer, a_time, a_inner;
  const void* x;
  void* h;
  const void *initial, *states;
  void *grad_a, *grad_initial;
};

template <class Stored, class Number, bool kAdjoint>
void run_blocks(const Arguments& call) {
  const int64_t parts = Number::kParts, n = call.shape.n, row = call.shape.inner * n * parts;
  const int64_t outer = call.shape.T * row, inner = n * parts;
  auto large = [&](int64_t count) {
    const int64_t bytes = call.shape.sequences() * call.shape.T * count * sizeof(Stored);
    return bytes >= kStreamedBytes;
  };
  const Job<Stored, Number, kAdjoint> job{
      call.shape,
      block_steps<Number>(n),
      {static_cast<const Stored*>(call.a), call.a_outer * parts, call.a_time * parts,
       call.a_inner * parts, n * n * parts},
      {static_cast<const Stored*>(call.x), outer, row, inner, inner},
      {static_cast<Stored*>(call.h), outer, row, inner, inner, large(inner)},
      {static_cast<Stored*>(call.grad_a), outer * n, row * n, inner * n, inner * n,
       large(inner * n)},
      static_cast<const Stored*>(call.initial),
      static_cast<const Stored*>(call.states),
      static_cast<Stored*>(call.grad_initial)};
  const auto plan = make_block_plan<typename Number::Real>(call.shape, parts, call.threads);
  plan.split ? walk_split(plan, job) : walk(plan, job);
}

// One sequence at a time, with matrices of any size.
template <class Stored, bool kAdjoint>
void run_dense(const Arguments& call) {
  using T = Compute<Stored>;
  const Blocks& shape = call.shape;
  const int64_t n = shape.n, room = padded(n);
  const auto *a = static_cast<const Stored*>(call.a), *x = static_cast<const Stored*>(call.x),
             *initial = static_cast<const Stored*>(call.initial),
             *states = static_cast<const Stored*>(call.states);
  auto *h = static_cast<Stored*>(call.h), *grad_a = static_cast<Stored*>(call.grad_a);
  const bool small = shape.sequences() * shape.T * n * n < kSmall;
  for_each_claimed(shape.sequences(), small ? 1 : call.threads, [&](int64_t s) {
    T *carry = thread_buffer<T, 0>(4 * room), *v = carry + room, *w = v + room, *before = w + room;
    for (int64_t k = 0; k < 4 * room; k++) carry[k] = T(0);
    const int64_t o = s / shape.inner, i = s % shape.inner;
    const Stored* first = initial ? initial + s * n : nullptr;
    if (!kAdjoint && first) read_numbers(n, first, carry);
    for (int64_t k = 0; k < shape.T; k++) {
      const int64_t t = shape.down ? shape.T - 1 - k : k;
      const int64_t row = ((o * shape.T + t) * shape.inner + i) * n;
      const Stored* matrix = a + o * call.a_outer + t * call.a_time + i * call.a_inner;
      read_numbers(n, x + row, w);
      if constexpr (kAdjoint) {
        for (int64_t c = 0; c < n; c++) v[c] = w[c] + carry[c];
        write_numbers(n, v, h + row);
        const int64_t next = shape.down ? -shape.inner * n : shape.inner * n;
        const Stored* from = k + 1 < shape.T ? states + row + next : first;
        if (grad_a && from) read_numbers(n, from, before);
        if (grad_a && !from) fill_zero(before, room);
        dense_adjoint(n, matrix, v, before, carry, grad_a ? grad_a + row * n : nullptr);
      } else {
        dense_forward(n, matrix, carry, w, v);
        write_numbers(n, v, h + row);
        std::swap(carry, v);
      }
    }
    if constexpr (kAdjoint)
      write_numbers(n, carry, static_cast<Stored*>(call.grad_initial) + s * n);
  });
}

template <bool kAdjoint>
void run(const Arguments& call) {
  const bool dense = call.shape.n > kLargestBlock;
  auto real = [&](auto stored) {
    using Stored = decltype(stored);
    dense ? run_dense<Stored, kAdjoint>(call)
          : run_blocks<Stored, RealLanes<Compute<Stored>>, kAdjoint>(call);
  };
  auto complex = [&](auto part) {
    using Part = decltype(part);
    dense ? run_dense<Complex<Part>, kAdjoint>(call)
          : run_blocks<Part, ComplexLanes<Part>, kAdjoint>(call);
  };
  switch (call.dtype) {
    case kComplex64: return complex(float());
    case kComplex128: return complex(double());
    default: return with_floating(call.dtype, real);
  }
}

}  // namespace
}  // namespace longrnn

using namespace longrnn;

EXPORT void longrnn_block_linear_recurrence_forward(int dtype, int64_t outer, int64_t T,
                                                    int64_t inner, int64_t n, int reverse,
                                                    int threads, const void* a, int64_t a_outer,
                                                    int64_t a_time, int64_t a_inner, const void* x,
                                                    const void* initial, void* h) {
  run<false>({dtype, {outer, T, inner, n, bool(reverse)}, threads, a, a_outer, a_time, a_inner, x,
              h, initial, nullptr, nullptr, nullptr});
}

EXPORT void longrnn_block_linear_recurrence_backward(
    int dtype, int64_t outer, int64_t T, int64_t inner, int64_t n, int reverse, int threads,
    const void* y, const void* a, int64_t a_outer, int64_t a_time, int64_t a_inner, const void* h,
    const void* initial, void* grad_a, void* grad_x, void* grad_initial) {
  run<true>({dtype, {outer, T, inner, n, !reverse}, threads, a, a_outer, a_time, a_inner, y,
             grad_x, initial, h, grad_a, grad_initial});
}
