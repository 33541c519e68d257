// The gate that skips steps: the wish to update grows by p at every step, and a step updates once
// it exceeds a half. Definition in words: src/longrnn/ops/skip_gate/plain.py.
#pragma once

namespace longrnn {

// The gate at a step, as it is kept.
template <class T>
struct SkipGate {
  T prob, accum;            // p and kappa before the step
  T accumulated, new_prob;  // of the step: u before rounding, and p if it updates

  bool update() const { return accumulated > T(0.5); }  // a tie skips
  bool rises() const { return prob <= 1 - accum; }      // by p, and not by what is left to 1
  void accumulate() { accumulated = accum + (rises() ? prob : 1 - accum); }
  // To the next step.
  void pass() {
    if (update()) prob = new_prob;
    accum = update() ? 0 : accumulated;
  }
};

// Gradients of p and kappa, on the way back.
template <class T>
struct SkipGateGradient {
  T prob, accum;

  // From after a step to before it, where u has the gradient `grad` by all else; returns that of
  // the pre-activation of new_prob.
  T pass(const SkipGate<T>& gate, T grad) {
    grad += prob * (gate.new_prob - gate.prob) - accum * gate.accumulated;
    if (!gate.update()) grad += accum;
    const T logit = gate.update() ? prob * gate.new_prob * (1 - gate.new_prob) : 0;
    prob = (gate.update() ? 0 : prob) + (gate.rises() ? grad : 0);
    accum = gate.rises() ? grad : 0;
    return logit;
  }
};

}  // namespace longrnn
