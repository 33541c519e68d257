// Matrices that are wider than a vector: v = A v, row by row, from where they lie.
#pragma once

#include "vector.h"

namespace longrnn {

// Numbers to make room for, so that whole vectors can be read.
inline int64_t padded(int64_t n) { return (n + 15) / 16 * 16; }

// out = A v + w for a matrix of n rows; `v` is padded with zeros.
template <class T, class Stored>
void dense_forward(int64_t n, const Stored* a, const T* v, const T* w, T* out) {
  constexpr int kRows = 4;  // that read a piece of v together
  for (int64_t i = 0; i < n; i += kRows) {
    Vector<T> sum[kRows] = {};
    const int64_t rows = n - i < kRows ? n - i : kRows;
    for (int64_t c = 0; c < n; c += kLanes<T>) {
      const Vector<T> part = load(v + c);
#pragma GCC unroll 4
      for (int r = 0; r < kRows; r++)
        if (r < rows) sum[r] += load_some<T>(a + (i + r) * n + c, n - c) * part;
    }
#pragma GCC unroll 4
    for (int r = 0; r < kRows; r++)
      if (r < rows) out[i + r] = w[i + r] + sum_of<T>(sum[r]);
  }
}

// out = A^T s; grad_a = s before^T, if wanted. `out` and `before` are padded.
template <class T, class Stored>
void dense_adjoint(int64_t n, const Stored* a, const T* s, const T* before, T* out,
                   Stored* grad_a) {
  for (int64_t c = 0; c < n; c += kLanes<T>) store(out + c, Vector<T>{});
  for (int64_t i = 0; i < n; i++)
    for (int64_t c = 0; c < n; c += kLanes<T>) {
      store(out + c, load(out + c) + load_some<T>(a + i * n + c, n - c) * s[i]);
      if (grad_a) store_some<T>(grad_a + i * n + c, load(before + c) * s[i], n - c);
    }
}

// Complex numbers one by one.
template <class T>
void dense_forward(int64_t n, const Complex<T>* a, const Complex<T>* v, const Complex<T>* w,
                   Complex<T>* out) {
  for (int64_t i = 0; i < n; i++) {
    Complex<T> sum = w[i];
    for (int64_t j = 0; j < n; j++) sum = sum + a[i * n + j] * v[j];
    out[i] = sum;
  }
}

template <class T>
void dense_adjoint(int64_t n, const Complex<T>* a, const Complex<T>* s, const Complex<T>* before,
                   Complex<T>* out, Complex<T>* grad_a) {
  for (int64_t j = 0; j < n; j++) out[j] = Complex<T>(0);
  for (int64_t i = 0; i < n; i++)
    for (int64_t j = 0; j < n; j++) {
      out[j] = out[j] + conj(a[i * n + j]) * s[i];
      if (grad_a) grad_a[i * n + j] = s[i] * conj(before[j]);
    }
}

template <class T, class Stored>
void read_numbers(int64_t n, const Stored* from, T* to) {
  if constexpr (std::is_floating_point_v<T>)
    load_row(to, from, n);
  else
    for (int64_t k = 0; k < n; k++) to[k] = from[k];
}
template <class T, class Stored>
void write_numbers(int64_t n, const T* from, Stored* to) {
  if constexpr (std::is_floating_point_v<T>)
    store_row(to, from, n);
  else
    for (int64_t k = 0; k < n; k++) to[k] = from[k];
}

}  // namespace longrnn
