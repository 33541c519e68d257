// exp, sigmoid and tanh of whole vectors, branch-free. Coefficients: Cephes (float exp, both tanh)
// and Taylor (double exp); errors of a few units in the last place.
#pragma once

#include <cstdint>

#include "vector.h"

namespace longrnn {

template <class To, class From>
inline To bits_as(From x) {
  static_assert(sizeof(To) == sizeof(From));
  return __builtin_bit_cast(To, x);
}

template <class V>
using LaneOf = std::remove_reference_t<decltype(V{}[0])>;

template <class V>
inline V all(LaneOf<V> x) {
  return V{} + x;
}

// Horner's rule, highest power first.
template <class V, class T, class... Rest>
inline V horner(V x, T first, Rest... rest) {
  V p = all<V>(first);
  ((p = p * x + T(rest)), ...);
  return p;
}

// 2^k p, where the bits of `shifted` hold the integer k in their lowest places.
inline Vector<float> times_power(Vector<float> p, Vector<float> shifted) {
  using I = LaneIndex<float>;
  return bits_as<Vector<float>>(bits_as<I>(p) + (bits_as<I>(shifted) << 23));
}
inline Vector<double> times_power(Vector<double> p, Vector<double> shifted) {
  using I = LaneIndex<double>;
  return bits_as<Vector<double>>(bits_as<I>(p) + (bits_as<I>(shifted) << 52));
}

inline Vector<float> exp_remainder(Vector<float> r) {
  return horner(r, 1.9875691500e-4f, 1.3981999507e-3f, 8.3334519073e-3f, 4.1665795894e-2f,
                1.6666665459e-1f, 5.0000001201e-1f) * r * r + r + 1.0f;
}
inline Vector<double> exp_remainder(Vector<double> r) {
  return horner(r, 1.0 / 6227020800, 1.0 / 479001600, 1.0 / 39916800, 1.0 / 3628800, 1.0 / 362880,
                1.0 / 40320, 1.0 / 5040, 1.0 / 720, 1.0 / 120, 1.0 / 24, 1.0 / 6, 0.5) * r * r +
         r + 1.0;
}

template <class T>
struct ExpRange;  // arguments between which 2^k is a normal number; the shift that rounds to k
template <>
struct ExpRange<float> {
  static constexpr float kLow = -87.3f, kHigh = 88.3f, kRound = 12582912.0f;
  static constexpr float kLn2High = 0.693359375f, kLn2Low = -2.12194440e-4f;
};
template <>
struct ExpRange<double> {
  static constexpr double kLow = -708.0, kHigh = 709.0, kRound = 6755399441055744.0;
  static constexpr double kLn2High = 6.93145751953125e-1, kLn2Low = 1.42860682030941723212e-6;
};

template <class V>
inline V exponential(V x) {
  using T = LaneOf<V>;
  using Range = ExpRange<T>;
  x = x > Range::kHigh ? all<V>(Range::kHigh) : x;  // in this order a NaN stays one
  x = x < Range::kLow ? all<V>(Range::kLow) : x;
  const V shifted = x * T(1.4426950408889634074) + Range::kRound, n = shifted - Range::kRound;
  return times_power(exp_remainder((x - n * Range::kLn2High) - n * Range::kLn2Low), shifted);
}

template <class V>
inline V sigmoid(V x) {
  return 1 / (1 + exponential(-x));
}

// A sigmoid and what it lacks of 1, without the cancellation of 1 - sigmoid(x).
template <class V>
struct Gate {
  V open, shut;
  explicit Gate(V x) {
    const V e = exponential(-x);
    open = 1 / (1 + e);
    shut = e * open;
  }
  V slope() const { return open * shut; }
};

inline Vector<float> tanh_near_zero(Vector<float> x) {
  const Vector<float> z = x * x;
  return horner(z, -5.70498872745e-3f, 2.06390887954e-2f, -5.37397155531e-2f, 1.33314422036e-1f,
                -3.33332819422e-1f) * z * x + x;
}
inline Vector<double> tanh_near_zero(Vector<double> x) {
  const Vector<double> z = x * x;
  const auto p = horner(z, -9.64399179425052238628e-1, -9.92877231001918586564e1,
                        -1.61468768441708447952e3);
  const auto q = horner(z, 1.0, 1.12811678491632931402e2, 2.23548839060100448583e3,
                        4.84406305325125486048e3);
  return x + x * z * p / q;
}

template <class V>
inline V hyperbolic_tangent(V x) {
  const V size = x < 0 ? -x : x;
  const V far = 1 - 2 / (exponential(2 * size) + 1);
  return size < LaneOf<V>(0.625) ? tanh_near_zero(x) : (x < 0 ? -far : far);
}

}  // namespace longrnn
