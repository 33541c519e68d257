// The cells of gated_recurrence: pre-activations to decay and impulse, state to output, and the
// derivatives of both, on vectors V. Definitions in words: src/longrnn/ops/gated_recurrence/cells.py.
//
//   gates(p, a, b)                   c = a * before + b
//   gates_backward(p, s, before, d)  d[k] = s * dc/dp[k], for the gates that enter c
//   output(c, x, p)                  h; x is the highway
//   output_backward(g, c, x, p, d, dx)   returns dc; fills d[k] for the gates that enter h only
//
// `Opened` makes of each a cell whose steps are taken in part, `Candidate` one that then still puts
// out what the whole step would.
#pragma once

#include "math.h"

namespace longrnn {

struct Identity {
  template <class V>
  static V value(V x) { return x; }
  template <class V>
  static V slope(V, V) { return all<V>(1); }  // of (x, value)
};
struct Tanh {
  template <class V>
  static V value(V x) { return hyperbolic_tangent(x); }
  template <class V>
  static V slope(V, V y) { return 1 - y * y; }
};
struct Elu {
  template <class V>
  static V value(V x) {
    // exp(x) - 1 without its cancellation near 0
    const V half = hyperbolic_tangent((x > 0 ? all<V>(0) : x) / 2);
    return x > 0 ? x : 2 * half / (1 - half);
  }
  template <class V>
  static V slope(V x, V y) { return x > 0 ? all<V>(1) : y + 1; }
};
struct Relu {
  template <class V>
  static V value(V x) { return x < 0 ? all<V>(0) : x; }
  template <class V>
  static V slope(V x, V) { return x > 0 ? all<V>(1) : all<V>(0); }
};

// What most cells share. c = f before + (1 - f) act(z) with f the sigmoid of pre-activation F.
template <int G, int F, int Z, class Act>
struct Blend {
  static constexpr int kGates = G;
  static constexpr bool kOutput = false, kHighway = false, kDelayed = false;

  template <class V>
  static void gates(const V* p, V& a, V& b) {
    const Gate f(p[F]);
    a = f.open;
    b = f.shut * Act::value(p[Z]);
  }
  template <class V>
  static void gates_backward(const V* p, V s, V before, V* d) {
    const Gate f(p[F]);
    const V z = Act::value(p[Z]);
    d[F] = s * (before - z) * f.slope();
    d[Z] = s * f.shut * Act::slope(p[Z], z);
  }
  template <class V>
  static V output(V c, V, const V*) { return c; }
  template <class V>
  static V output_backward(V g, V, V, const V*, V*, V&) { return g; }
};

// h = gate(o) c, with o pre-activation O; Gate is a sigmoid or a tanh.
template <class Base, int O, bool kTanh>
struct GatedOutput : Base {
  static constexpr bool kOutput = true;

  template <class V>
  static V output(V c, V, const V* p) {
    if constexpr (kTanh) return hyperbolic_tangent(p[O]) * c;
    return sigmoid(p[O]) * c;
  }
  template <class V>
  static V output_backward(V g, V c, V, const V* p, V* d, V&) {
    if constexpr (kTanh) {
      const V o = hyperbolic_tangent(p[O]);
      d[O] = g * c * (1 - o * o);
      return g * o;
    }
    const Gate o(p[O]);
    d[O] = g * c * o.slope();
    return g * o.open;
  }
};

template <class Act>
using Gilr = Blend<2, 0, 1, Act>;

struct Surrogate : Gilr<Tanh> {
  static constexpr bool kDelayed = true;  // the output is the state before the step
};

struct LstmGates {
  static constexpr int kGates = 4;  // i, f, g, o
  static constexpr bool kHighway = false, kDelayed = false;

  template <class V>
  static void gates(const V* p, V& a, V& b) {
    a = sigmoid(p[1]);
    b = sigmoid(p[0]) * hyperbolic_tangent(p[2]);
  }
  template <class V>
  static void gates_backward(const V* p, V s, V before, V* d) {
    const Gate i(p[0]), f(p[1]);
    const V g = hyperbolic_tangent(p[2]);
    d[0] = s * g * i.slope();
    d[1] = s * before * f.slope();
    d[2] = s * i.open * (1 - g * g);
  }
};
using Lstm = GatedOutput<LstmGates, 3, false>;

template <class Act>
struct Sru : Blend<3, 1, 0, Identity> {
  static constexpr bool kOutput = true, kHighway = true;

  template <class V>
  static V output(V c, V x, const V* p) {
    const Gate r(p[2]);
    return r.open * Act::value(c) + r.shut * x;
  }
  template <class V>
  static V output_backward(V g, V c, V x, const V* p, V* d, V& dx) {
    const Gate r(p[2]);
    const V y = Act::value(c);
    d[2] = g * (y - x) * r.slope();
    dx = g * r.shut;
    return g * r.open * Act::slope(c, y);
  }
};

using Qrnn = GatedOutput<Blend<3, 1, 0, Tanh>, 2, false>;
using StronglyTypedRnn = Blend<2, 1, 0, Identity>;
using StronglyTypedLstm = GatedOutput<Blend<3, 1, 0, Identity>, 2, true>;

struct StronglyTypedGru : Blend<3, 1, 0, Identity> {
  template <class V>
  static void gates(const V* p, V& a, V& b) {
    a = sigmoid(p[1]);
    b = p[0] * hyperbolic_tangent(p[2]);
  }
  template <class V>
  static void gates_backward(const V* p, V s, V before, V* d) {
    const Gate f(p[1]);
    const V o = hyperbolic_tangent(p[2]);
    d[0] = s * o;
    d[1] = s * before * f.slope();
    d[2] = s * p[0] * (1 - o * o);
  }
};

struct MinGru : Blend<2, 0, 1, Identity> {
  template <class V>
  static void gates(const V* p, V& a, V& b) {
    const Gate z(p[0]);
    a = z.shut;
    b = z.open * p[1];
  }
  template <class V>
  static void gates_backward(const V* p, V s, V before, V* d) {
    const Gate z(p[0]);
    d[0] = s * (p[1] - before) * z.slope();
    d[1] = s * z.open;
  }
};

struct MinLstm : Blend<3, 0, 2, Identity> {
  // sigmoid(F) / (sigmoid(F) + sigmoid(I)) as (1 + e^-I) / (2 + e^-F + e^-I), which is never
  // 0 / 0; quarters of the terms, so that their sum does not overflow.
  template <class V>
  static void gates(const V* p, V& a, V& b) {
    const V f = (1 + exponential(-p[0])) / 4, i = (1 + exponential(-p[1])) / 4;
    a = i / (f + i);
    b = f / (f + i) * p[2];
  }
  template <class V>
  static void gates_backward(const V* p, V s, V before, V* d) {
    const Gate f_gate(p[0]), i_gate(p[1]);
    const V unit[] = {p[0], p[1], all<V>(1)};
    V keep, write;
    gates(unit, keep, write);
    const V by_logit = s * (before - p[2]) * keep * write;
    d[0] = by_logit * f_gate.shut;
    d[1] = -by_logit * i_gate.shut;
    d[2] = s * write;
  }
};

struct Hold {
  static constexpr int kGates = 1;
  static constexpr bool kOutput = false, kHighway = false, kDelayed = false;

  template <class V>
  static void gates(const V* p, V& a, V& b) {
    a = V{};
    b = p[0];
  }
  template <class V>
  static void gates_backward(const V*, V s, V, V* d) { d[0] = s; }
  template <class V>
  static V output(V c, V, const V*) { return c; }
  template <class V>
  static V output_backward(V g, V, V, const V*, V*, V&) { return g; }
};

// A cell whose output, where a step is taken in part, is made of what the whole step would make of
// the state. Kernels see that by the type; whole steps are those of the base.
template <class Base>
struct Candidate : Base {
  static_assert(!Base::kHighway);
  static constexpr bool kOutput = true;
};

// A cell of which each step is taken to a share k, between 0 and 1. A step of k = 0 keeps the
// state to the bit: what is no number there counts as 0.
template <class Base>
struct Opened : Base {
  template <class V>
  static void look(V* p, V k) {
    for (int g = 0; g < Base::kGates; g++) {
      const auto finite = p[g] - p[g] == 0, open = k != 0;
      p[g] = finite | open ? p[g] : V{};
    }
  }
  template <class V>
  static void gates(V* p, V k, V& a, V& b) {
    look(p, k);
    Base::gates(p, a, b);
    a += (1 - k) * (1 - a);
    b *= k;
  }
  // Fills d as Base does and returns the gradient of k.
  template <class V>
  static V gates_backward(V* p, V k, V s, V before, V* d) {
    look(p, k);
    V a, b;
    Base::gates(p, a, b);
    Base::gates_backward(p, k * s, before, d);
    return s * (b + (a - 1) * before);
  }
};

// The same where the output is a candidate: a function of the state before the step.
template <class Base>
struct Opened<Candidate<Base>> : Opened<Base> {
  static constexpr bool kOutput = true;

  template <class V>
  static V output(V* p, V k, V before) {
    V a, b;
    Opened<Base>::look(p, k);
    Base::gates(p, a, b);
    return Base::output(a * before + b, V{}, p);
  }
  // The gradient of the state before through the output alone, from the output's, g.
  template <class V>
  static V output_backward(V* p, V k, V g, V before) {
    V a, b, d[Base::kGates], dx;
    Opened<Base>::look(p, k);
    Base::gates(p, a, b);
    return a * Base::output_backward(g, a * before + b, V{}, p, d, dx);
  }
  // Fills all of d from the gradients of the state, s, and of the output, g; returns that of k.
  template <class V>
  static V gates_backward(V* p, V k, V s, V g, V before, V* d) {
    V a, b, dx;
    Opened<Base>::look(p, k);
    Base::gates(p, a, b);
    const V whole = Base::output_backward(g, a * before + b, V{}, p, d, dx);
    Base::gates_backward(p, k * s + whole, before, d);
    return s * (b + (a - 1) * before);
  }
};

}  // namespace longrnn
