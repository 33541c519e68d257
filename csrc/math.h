// exp, sigmoid and tanh as straight-line code, so that loops over them become vector code.
// Coefficients: Cephes (float) and Taylor (double exp); errors of a few units in the last place.
#pragma once

#include <cstdint>

namespace longrnn {

template <class To, class From>
inline To bits_as(From x) {
  static_assert(sizeof(To) == sizeof(From));
  return __builtin_bit_cast(To, x);
}

inline float exponential(float x) {
  x = x > 88.3f ? 88.3f : x;  // in this order a NaN stays one
  x = x < -87.3f ? -87.3f : x;
  const float shifted = x * 1.44269504088896341f + 12582912.0f;  // rounds to an integer
  const float n = shifted - 12582912.0f;
  const float r = (x - n * 0.693359375f) + n * 2.12194440e-4f;
  float p = 1.9875691500e-4f;
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = (p * r * r + r) + 1.0f;
  return bits_as<float>(bits_as<int32_t>(p) + (bits_as<int32_t>(shifted) << 23));
}

inline double exponential(double x) {
  x = x > 709.0 ? 709.0 : x;
  x = x < -708.0 ? -708.0 : x;
  const double shifted = x * 1.4426950408889634074 + 6755399441055744.0;
  const double n = shifted - 6755399441055744.0;
  const double r = (x - n * 6.93145751953125e-1) - n * 1.42860682030941723212e-6;
  double p = 1.0 / 6227020800;
  p = p * r + 1.0 / 479001600;
  p = p * r + 1.0 / 39916800;
  p = p * r + 1.0 / 3628800;
  p = p * r + 1.0 / 362880;
  p = p * r + 1.0 / 40320;
  p = p * r + 1.0 / 5040;
  p = p * r + 1.0 / 720;
  p = p * r + 1.0 / 120;
  p = p * r + 1.0 / 24;
  p = p * r + 1.0 / 6;
  p = p * r + 0.5;
  p = (p * r * r + r) + 1.0;
  return bits_as<double>(bits_as<int64_t>(p) + (bits_as<int64_t>(shifted) << 52));
}

template <class T>
inline T sigmoid(T x) {
  return T(1) / (T(1) + exponential(-x));
}

inline float tanh_near_zero(float x) {
  const float z = x * x;
  float p = -5.70498872745e-3f;
  p = p * z + 2.06390887954e-2f;
  p = p * z - 5.37397155531e-2f;
  p = p * z + 1.33314422036e-1f;
  p = p * z - 3.33332819422e-1f;
  return p * z * x + x;
}

inline double tanh_near_zero(double x) {
  const double z = x * x;
  double p = -9.64399179425052238628e-1, q = z + 1.12811678491632931402e2;
  p = p * z - 9.92877231001918586564e1;
  p = p * z - 1.61468768441708447952e3;
  q = q * z + 2.23548839060100448583e3;
  q = q * z + 4.84406305325125486048e3;
  return x + x * z * p / q;
}

template <class T>
inline T hyperbolic_tangent(T x) {
  const T size = x < 0 ? -x : x;
  const T far = T(1) - T(2) / (exponential(T(2) * size) + T(1));
  const T near = tanh_near_zero(x);
  return size < T(0.625) ? near : (x < 0 ? -far : far);
}

}  // namespace longrnn
