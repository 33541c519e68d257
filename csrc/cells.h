// The cells of gated_recurrence: pre-activations to decay and impulse, state to output, and the
// derivatives of both. Definitions in words: src/longrnn/ops/gated_recurrence/cells.py.
//
//   gates(p, a, b)                   c = a * before + b
//   gates_backward(p, s, before, d)  d[k] = s * dc/dp[k], for the gates that enter c
//   output(c, x, p)                  h; x is the highway
//   output_backward(g, c, x, p, d, dx)   returns dc; fills d[k] for the gates that enter h only
#pragma once

#include "math.h"

namespace longrnn {

struct Identity {
  template <class T>
  static T value(T x) { return x; }
  template <class T>
  static T slope(T, T) { return T(1); }  // of (x, value)
};
struct Tanh {
  template <class T>
  static T value(T x) { return hyperbolic_tangent(x); }
  template <class T>
  static T slope(T, T y) { return T(1) - y * y; }
};
struct Elu {
  template <class T>
  static T value(T x) {
    // exp(x) - 1 without its cancellation near 0
    const T half = hyperbolic_tangent(T(0.5) * (x > T(0) ? T(0) : x));
    return x > T(0) ? x : T(2) * half / (T(1) - half);
  }
  template <class T>
  static T slope(T x, T y) { return x > T(0) ? T(1) : y + T(1); }
};
struct Relu {
  template <class T>
  static T value(T x) { return x < T(0) ? T(0) : x; }
  template <class T>
  static T slope(T x, T) { return x > T(0) ? T(1) : T(0); }
};

// What most cells share. c = f before + (1 - f) act(z) with f the sigmoid of pre-activation F.
template <int G, int F, int Z, class Act>
struct Blend {
  static constexpr int kGates = G;
  static constexpr bool kOutput = false, kHighway = false, kDelayed = false;

  template <class T>
  static void gates(const T* p, T& a, T& b) {
    a = sigmoid(p[F]);
    b = (T(1) - a) * Act::value(p[Z]);
  }
  template <class T>
  static void gates_backward(const T* p, T s, T before, T* d) {
    const T f = sigmoid(p[F]), z = Act::value(p[Z]);
    d[F] = s * (before - z) * f * (T(1) - f);
    d[Z] = s * (T(1) - f) * Act::slope(p[Z], z);
  }
  template <class T>
  static T output(T c, T, const T*) { return c; }
  template <class T>
  static T output_backward(T g, T, T, const T*, T*, T&) { return g; }
};

// h = gate(o) c, with o pre-activation O; Gate is a sigmoid or a tanh.
template <class Base, int O, bool kTanh>
struct GatedOutput : Base {
  static constexpr bool kOutput = true;

  template <class T>
  static T gate(T o) { return kTanh ? hyperbolic_tangent(o) : sigmoid(o); }
  template <class T>
  static T output(T c, T, const T* p) { return gate(p[O]) * c; }
  template <class T>
  static T output_backward(T g, T c, T, const T* p, T* d, T&) {
    const T o = gate(p[O]);
    d[O] = g * c * (kTanh ? T(1) - o * o : o * (T(1) - o));
    return g * o;
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

  template <class T>
  static void gates(const T* p, T& a, T& b) {
    a = sigmoid(p[1]);
    b = sigmoid(p[0]) * hyperbolic_tangent(p[2]);
  }
  template <class T>
  static void gates_backward(const T* p, T s, T before, T* d) {
    const T i = sigmoid(p[0]), f = sigmoid(p[1]), g = hyperbolic_tangent(p[2]);
    d[0] = s * g * i * (T(1) - i);
    d[1] = s * before * f * (T(1) - f);
    d[2] = s * i * (T(1) - g * g);
  }
};
using Lstm = GatedOutput<LstmGates, 3, false>;

template <class Act>
struct Sru : Blend<3, 1, 0, Identity> {
  static constexpr bool kOutput = true, kHighway = true;

  template <class T>
  static T output(T c, T x, const T* p) {
    const T r = sigmoid(p[2]);
    return r * Act::value(c) + (T(1) - r) * x;
  }
  template <class T>
  static T output_backward(T g, T c, T x, const T* p, T* d, T& dx) {
    const T r = sigmoid(p[2]), y = Act::value(c);
    d[2] = g * (y - x) * r * (T(1) - r);
    dx = g * (T(1) - r);
    return g * r * Act::slope(c, y);
  }
};

using Qrnn = GatedOutput<Blend<3, 1, 0, Tanh>, 2, false>;
using StronglyTypedRnn = Blend<2, 1, 0, Identity>;
using StronglyTypedLstm = GatedOutput<Blend<3, 1, 0, Identity>, 2, true>;

struct StronglyTypedGru : Blend<3, 1, 0, Identity> {
  template <class T>
  static void gates(const T* p, T& a, T& b) {
    a = sigmoid(p[1]);
    b = p[0] * hyperbolic_tangent(p[2]);
  }
  template <class T>
  static void gates_backward(const T* p, T s, T before, T* d) {
    const T f = sigmoid(p[1]), o = hyperbolic_tangent(p[2]);
    d[0] = s * o;
    d[1] = s * before * f * (T(1) - f);
    d[2] = s * p[0] * (T(1) - o * o);
  }
};

struct MinGru : Blend<2, 0, 1, Identity> {
  template <class T>
  static void gates(const T* p, T& a, T& b) {
    a = sigmoid(-p[0]);
    b = sigmoid(p[0]) * p[1];
  }
  template <class T>
  static void gates_backward(const T* p, T s, T before, T* d) {
    const T z = sigmoid(p[0]);
    d[0] = s * (p[1] - before) * z * (T(1) - z);
    d[1] = s * z;
  }
};

struct MinLstm : Blend<3, 0, 2, Identity> {
  // sigmoid(F) / (sigmoid(F) + sigmoid(I)), without the quotient that may be 0 / 0
  template <class T>
  static void gates(const T* p, T& a, T& b) {
    const T f = T(1) + exponential(-p[0]), i = T(1) + exponential(-p[1]);
    a = i / (f + i);
    b = f / (f + i) * p[2];
  }
  template <class T>
  static void gates_backward(const T* p, T s, T before, T* d) {
    const T f = T(1) + exponential(-p[0]), i = T(1) + exponential(-p[1]);
    const T keep = i / (f + i), write = f / (f + i), by_logit = s * (before - p[2]) * keep * write;
    d[0] = by_logit * ((f - T(1)) / f);
    d[1] = -by_logit * ((i - T(1)) / i);
    d[2] = s * write;
  }
};

}  // namespace longrnn
