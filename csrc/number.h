// The element types: what lies in memory (`Stored`) and what is computed with (`Compute`).
#pragma once

#include <cstdint>
#include <type_traits>

namespace longrnn {

struct BFloat16 {
  uint16_t bits;
  BFloat16() = default;
  BFloat16(float x) {
    uint32_t u;
    __builtin_memcpy(&u, &x, 4);
    uint32_t rounded = (u + 0x7fff + ((u >> 16) & 1)) >> 16;  // to nearest, ties to even
    bits = uint16_t(x != x ? 0x7fc0 : rounded);
  }
  operator float() const {
    uint32_t u = uint32_t(bits) << 16;
    float x;
    __builtin_memcpy(&x, &u, 4);
    return x;
  }
};

using Float16 = _Float16;

// std::complex multiplies through a library call that looks for infinities; this one does not.
template <class T>
struct Complex {
  T re, im;
  Complex() = default;
  Complex(T re, T im = 0) : re(re), im(im) {}
  friend Complex operator+(Complex a, Complex b) { return {a.re + b.re, a.im + b.im}; }
  friend Complex operator*(Complex a, Complex b) {
    return {a.re * b.re - a.im * b.im, a.re * b.im + a.im * b.re};
  }
};

template <class T>
inline T conj(T x) {
  return x;
}
template <class T>
inline Complex<T> conj(Complex<T> x) {
  return {x.re, -x.im};
}

template <class Stored>
struct ComputeOf {
  using Type = Stored;
};
template <>
struct ComputeOf<BFloat16> {
  using Type = float;
};
template <>
struct ComputeOf<Float16> {
  using Type = float;
};
template <class Stored>
using Compute = typename ComputeOf<Stored>::Type;

// The numbers by which Python names the types.
enum DType { kFloat32, kFloat64, kFloat16, kBFloat16, kComplex64, kComplex128 };

// Calls call(a number of the type that is stored).
template <class Call>
void with_real(int dtype, const Call& call) {
  switch (dtype) {
    case kFloat32: return call(float());
    case kFloat64: return call(double());
    default: __builtin_trap();
  }
}
template <class Call>
void with_floating(int dtype, const Call& call) {
  switch (dtype) {
    case kFloat16: return call(Float16());
    case kBFloat16: return call(BFloat16());
    default: with_real(dtype, call);
  }
}

}  // namespace longrnn
