// Steps of h = A h + x with n x n matrices, a sequence a lane, n known to the compiler.
//
//   forward   h = A carry + x;                            carry = h
//   adjoint   s = carry + y;  grad_A = s conj(before)^T;  carry = conj(A)^T s
//
// Numbers lie lane by lane, as `gather` of lanes.h leaves them: those of a step end to end,
// matrices row by row; complex ones as a vector of real and one of imaginary parts.
#pragma once

#include "lanes.h"

namespace longrnn {

template <class T>
struct RealLanes {
  using Real = T;
  static constexpr int kParts = 1;
  Vector<T> re = {};

  static RealLanes at(const T* p, int64_t k) { return {load(p + k * kLanes<T>)}; }
  void put(T* p, int64_t k) const { store(p + k * kLanes<T>, re); }
  RealLanes conj() const { return *this; }
  void add(RealLanes a, RealLanes b) { re += a.re * b.re; }
  void add_conj(RealLanes a, RealLanes b) { re += a.re * b.re; }
  friend RealLanes operator+(RealLanes a, RealLanes b) { return {a.re + b.re}; }
};

template <class T>
struct ComplexLanes {
  using Real = T;
  static constexpr int kParts = 2;
  Vector<T> re = {}, im = {};

  static ComplexLanes at(const T* p, int64_t k) {
    return {load(p + 2 * k * kLanes<T>), load(p + (2 * k + 1) * kLanes<T>)};
  }
  void put(T* p, int64_t k) const {
    store(p + 2 * k * kLanes<T>, re);
    store(p + (2 * k + 1) * kLanes<T>, im);
  }
  void add(ComplexLanes a, ComplexLanes b) {
    re += a.re * b.re - a.im * b.im;
    im += a.re * b.im + a.im * b.re;
  }
  void add_conj(ComplexLanes a, ComplexLanes b) {  // conj(a) b
    re += a.re * b.re + a.im * b.im;
    im += a.re * b.im - a.im * b.re;
  }
  friend ComplexLanes operator+(ComplexLanes a, ComplexLanes b) {
    return {a.re + b.re, a.im + b.im};
  }
};

// v = A v + w, or conj(A)^T v + w.
template <class Number, int n, bool kAdjoint>
inline void multiply(const typename Number::Real* a, Number* v, const Number* w) {
  Number sum[n];
#pragma GCC unroll 8
  for (int i = 0; i < n; i++) sum[i] = w[i];
#pragma GCC unroll 8
  for (int j = 0; j < n; j++)
#pragma GCC unroll 8
    for (int i = 0; i < n; i++) {
      if constexpr (kAdjoint)
        sum[i].add_conj(Number::at(a, j * n + i), v[j]);
      else
        sum[i].add(Number::at(a, i * n + j), v[j]);
    }
#pragma GCC unroll 8
  for (int i = 0; i < n; i++) v[i] = sum[i];
}

template <class Number, int n>
inline void read(const typename Number::Real* p, Number* v) {
#pragma GCC unroll 8
  for (int i = 0; i < n; i++) v[i] = Number::at(p, i);
}
template <class Number, int n>
inline void write(typename Number::Real* p, const Number* v) {
#pragma GCC unroll 8
  for (int i = 0; i < n; i++) v[i].put(p, i);
}

// Runs `steps` steps, last to first where `down`: writes states and leaves the last in `carry`.
template <class Number, int n, class T = typename Number::Real>
void run_forward(int64_t steps, bool down, const T* a, const T* x, T* carry, T* h) {
  constexpr int64_t kState = n * Number::kParts * kLanes<T>;
  Number v[n], w[n];
  read<Number, n>(carry, v);
  for (int64_t k = 0; k < steps; k++) {
    const int64_t r = down ? steps - 1 - k : k;
    read<Number, n>(x + r * kState, w);
    multiply<Number, n, false>(a + r * kState * n, v, w);
    write<Number, n>(h + r * kState, v);
  }
  write<Number, n>(carry, v);
}

template <class Number, int n, class T = typename Number::Real>
void run_adjoint(int64_t steps, bool down, const T* a, const T* y, const T* before, T* carry, T* s,
                 T* grad_a) {
  constexpr int64_t kState = n * Number::kParts * kLanes<T>;
  const Number zero[n] = {};
  Number v[n], w[n];
  read<Number, n>(carry, v);
  for (int64_t k = 0; k < steps; k++) {
    const int64_t r = down ? steps - 1 - k : k;
#pragma GCC unroll 8
    for (int i = 0; i < n; i++) v[i] = v[i] + Number::at(y + r * kState, i);
    write<Number, n>(s + r * kState, v);
    if (grad_a) {
      read<Number, n>(before + r * kState, w);
#pragma GCC unroll 8
      for (int i = 0; i < n; i++)
#pragma GCC unroll 8
        for (int j = 0; j < n; j++) {
          Number product;
          product.add_conj(w[j], v[i]);
          product.put(grad_a + r * kState * n, i * n + j);
        }
    }
    multiply<Number, n, true>(a + r * kState * n, v, zero);
  }
  write<Number, n>(carry, v);
}

// What `steps` steps do to any state: state after = product * state before + partial, where
// `product` is written column by column.
template <class Number, int n, bool kAdjoint, class T = typename Number::Real>
void reduce_block(int64_t steps, bool down, const T* a, const T* x, T* partial, T* product) {
  constexpr int64_t kState = n * Number::kParts * kLanes<T>;
  const Number zero[n] = {};
  Number v[n], w[n];
  write<Number, n>(partial, zero);
  for (int j = 0; j < n; j++) {
#pragma GCC unroll 8
    for (int i = 0; i < n; i++) v[i] = zero[i];
    v[j].re += T(1);
    write<Number, n>(product + j * kState, v);
  }
  for (int64_t k = 0; k < steps; k++) {
    const int64_t r = down ? steps - 1 - k : k;
    const T* matrix = a + r * kState * n;
    read<Number, n>(partial, v);
    read<Number, n>(x + r * kState, w);
    if constexpr (kAdjoint) {
#pragma GCC unroll 8
      for (int i = 0; i < n; i++) v[i] = v[i] + w[i];
      multiply<Number, n, true>(matrix, v, zero);
    } else {
      multiply<Number, n, false>(matrix, v, w);
    }
    write<Number, n>(partial, v);
    for (int j = 0; j < n; j++) {
      read<Number, n>(product + j * kState, v);
      multiply<Number, n, kAdjoint>(matrix, v, zero);
      write<Number, n>(product + j * kState, v);
    }
  }
}

// The steps for one n, and n from 2 to kLargestBlock.
template <class T>
struct BlockSteps {
  void (*forward)(int64_t, bool, const T*, const T*, T*, T*);
  void (*adjoint)(int64_t, bool, const T*, const T*, const T*, T*, T*, T*);
  void (*reduce[2])(int64_t, bool, const T*, const T*, T*, T*);  // forward, adjoint
};
constexpr int kLargestBlock = 8;

template <class Number, int n = 2>
BlockSteps<typename Number::Real> block_steps(int64_t wanted) {
  if constexpr (n < kLargestBlock)
    if (wanted != n) return block_steps<Number, n + 1>(wanted);
  return {run_forward<Number, n>,
          run_adjoint<Number, n>,
          {reduce_block<Number, n, false>, reduce_block<Number, n, true>}};
}

}  // namespace longrnn
