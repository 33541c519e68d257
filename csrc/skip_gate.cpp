// The gate of layers that choose by their inputs which steps to skip. With `keep` the inputs of all
// steps are read, and what the gradient needs is kept; without, those of steps that update alone.
// Definition in words: src/longrnn/ops/skip_gate/plain.py.
#include "skip_gate.h"

#include "math.h"
#include "plan.h"
#include "teams.h"

namespace longrnn {
namespace {

template <class T>
struct GateCall {
  Shape shape;
  Rows rows;
  int64_t m;
  const T *weight_u, *bias_u, *x, *prob, *accum;
  T *updates, *last_prob, *last_accum;
  SkipGate<T>* gate;  // null if nothing is kept
};

// What p becomes if each of a few rows updates. Never inlined, so that a row has the same bits
// whether it is found alone or among others.
template <class T>
__attribute__((noinline)) void find_probabilities(const GateCall<T>& call, int64_t row,
                                                  int64_t count, T* out) {
  Vector<T> logits = {};
  for (int64_t i = 0; i < count; i++) {
    Vector<T> along = {};
    for (int64_t j = 0; j < call.m; j += kLanes<T>)
      along += load_some<T>(call.x + (row + i) * call.m + j, call.m - j) *
               load_some<T>(call.weight_u + j, call.m - j);
    logits[i] = sum_of<T>(along) + *call.bias_u;
  }
  store_some<T>(out, sigmoid(logits), count);
}

template <class T>
void keep_probabilities(const GateCall<T>& call, int threads) {
  constexpr int64_t kBlock = 64 * kLanes<T>;
  const int64_t total = call.shape.outer * call.shape.T;
  for_each_claimed(ceil_div(total, kBlock), threads, [&](int64_t block) {
    const int64_t end = total - block * kBlock < kBlock ? total : (block + 1) * kBlock;
    for (int64_t row = block * kBlock; row < end; row += kLanes<T>) {
      const int64_t count = end - row < kLanes<T> ? end - row : kLanes<T>;
      T found[kLanes<T>];
      find_probabilities(call, row, count, found);
      for (int64_t i = 0; i < count; i++) call.gate[row + i].new_prob = found[i];
    }
  });
}

template <class T>
void run_gate(const GateCall<T>& call, int64_t s) {
  SkipGate<T> gate{call.prob[s], call.accum[s], 0, 0};
  const int64_t steps = call.shape.steps(s);
  for (int64_t t = 0; t < steps; t++) {
    const int64_t row = call.rows.at(call.shape, s, t);
    gate.accumulate();
    if (call.gate) {
      gate.new_prob = call.gate[row].new_prob;
      call.gate[row] = gate;
    } else if (gate.update()) {
      find_probabilities(call, row, 1, &gate.new_prob);
    }
    call.updates[row] = gate.update();
    gate.pass();
  }
  call.last_prob[s] = gate.prob;
  call.last_accum[s] = gate.accum;
  if (call.shape.cu_seqlens) return;
  for (int64_t t = steps; t < call.shape.T; t++) {
    const int64_t row = call.rows.at(call.shape, s, t);
    call.updates[row] = 0;
    if (call.gate) call.gate[row] = {};
  }
}

}  // namespace
}  // namespace longrnn

using namespace longrnn;

EXPORT void longrnn_skip_gate_forward(
    int dtype, int64_t batch, int64_t T, int64_t m, const int64_t* cu_seqlens, int64_t sequences,
    const int64_t* lengths, int batch_first, int threads, const void* weight_u, const void* bias_u,
    const void* x, const void* prob, const void* accum, void* updates, void* last_prob,
    void* last_accum, void* gate) {
  const Shape shape{batch, T, 1, sequences, cu_seqlens, lengths, false};
  with_real(dtype, [&](auto number) {
    using C = decltype(number);
    auto own = [](void* p) { return static_cast<C*>(p); };
    auto in = [](const void* p) { return static_cast<const C*>(p); };
    const GateCall<C> call{shape, Rows(shape, batch_first), m, in(weight_u), in(bias_u), in(x),
                           in(prob), in(accum), own(updates), own(last_prob), own(last_accum),
                           static_cast<SkipGate<C>*>(gate)};
    if (gate) keep_probabilities(call, threads_for(batch * T * m, threads));
    for_each_claimed(shape.count(), threads_for(batch * T, threads),
                     [&](int64_t s) { run_gate(call, s); });
  });
}

// Gradients of the pre-activations of new_prob, a row each, and of p and kappa before the first
// step; any of the incoming may be null.
EXPORT void longrnn_skip_gate_backward(
    int dtype, int64_t batch, int64_t T, int64_t m, const int64_t* cu_seqlens, int64_t sequences,
    const int64_t* lengths, int batch_first, int threads, const void* gate,
    const void* grad_updates, const void* grad_prob, const void* grad_accum, void* grad_logits,
    void* grad_initial_prob, void* grad_initial_accum) {
  const Shape shape{batch, T, m, sequences, cu_seqlens, lengths, false};
  const Rows rows(shape, batch_first);
  with_real(dtype, [&](auto number) {
    using C = decltype(number);
    auto own = [](void* p) { return static_cast<C*>(p); };
    auto in = [](const void* p) { return static_cast<const C*>(p); };
    for_each_claimed(shape.count(), threads_for(batch * T, threads), [&](int64_t s) {
      SkipGateGradient<C> grad{grad_prob ? in(grad_prob)[s] : 0,
                               grad_accum ? in(grad_accum)[s] : 0};
      const int64_t steps = shape.steps(s);
      for (int64_t t = cu_seqlens ? 0 : shape.T; t-- > steps;) own(grad_logits)[rows.at(shape, s, t)] = 0;
      for (int64_t t = steps; t-- > 0;) {
        const int64_t row = rows.at(shape, s, t);
        own(grad_logits)[row] = grad.pass(static_cast<const SkipGate<C>*>(gate)[row],
                                          grad_updates ? in(grad_updates)[row] : 0);
      }
      own(grad_initial_prob)[s] = grad.prob;
      own(grad_initial_accum)[s] = grad.accum;
    });
  });
}
