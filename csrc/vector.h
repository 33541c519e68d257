// Vectors as wide as the instruction set this file is compiled for, in GCC's and Clang's own
// vector extension: arithmetic operators work lane by lane on every architecture.
#pragma once

#include <cstdint>
#include <type_traits>

#include "number.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace longrnn {

#if defined(__AVX512F__)
constexpr int kVectorBytes = 64;
#elif defined(__AVX2__)
constexpr int kVectorBytes = 32;
#else
constexpr int kVectorBytes = 16;
#endif

template <class T>
constexpr int kLanes = kVectorBytes / int(sizeof(T));

template <class T>
struct VectorOf {
  using Lane = std::conditional_t<sizeof(T) == 4, int32_t, int64_t>;
  typedef T Type __attribute__((vector_size(kVectorBytes)));
  typedef Lane Index __attribute__((vector_size(kVectorBytes)));
};
template <class T>
using Vector = typename VectorOf<T>::Type;
template <class T>
using LaneIndex = typename VectorOf<T>::Index;

template <class T>
inline Vector<T> load(const T* p) {
  Vector<T> v;
  __builtin_memcpy(&v, p, sizeof v);
  return v;
}

template <class T>
inline void store(T* p, Vector<T> v) {
  __builtin_memcpy(p, &v, sizeof v);
}

// A store that bypasses the cache, for results larger than it; `p` is aligned to the vector.
template <class T>
inline void stream(T* p, Vector<T> v) {
#if defined(__AVX512F__)
  _mm512_stream_si512(reinterpret_cast<__m512i*>(p), reinterpret_cast<__m512i>(v));
#elif defined(__AVX2__)
  _mm256_stream_si256(reinterpret_cast<__m256i*>(p), reinterpret_cast<__m256i>(v));
#elif defined(__x86_64__)
  _mm_stream_si128(reinterpret_cast<__m128i*>(p), reinterpret_cast<__m128i>(v));
#else
  store(p, v);
#endif
}

// Makes streamed stores visible before another thread is told of them.
inline void stream_fence() {
#if defined(__x86_64__)
  _mm_sfence();
#endif
}

#if defined(__clang__)
constexpr bool kPicksQuickly = false;  // Clang has no shuffle by an index known at run time only
#else
constexpr bool kPicksQuickly = true;
#endif

// Lanes of `a` (0 to n - 1) and `b` (n to 2 n - 1) picked by `index`.
template <class T>
inline Vector<T> pick(Vector<T> a, Vector<T> b, LaneIndex<T> index) {
#if defined(__clang__)
  Vector<T> out;
  for (int i = 0; i < kLanes<T>; i++)
    out[i] = index[i] < kLanes<T> ? a[index[i]] : b[index[i] - kLanes<T>];
  return out;
#else
  return __builtin_shuffle(a, b, index);
#endif
}

// As many floats as a vector holds doubles, and 16-bit numbers as it holds floats.
typedef float HalfFloats __attribute__((vector_size(kVectorBytes / 2)));
typedef Float16 Halves __attribute__((vector_size(kVectorBytes / 2)));
typedef uint16_t HalfBits __attribute__((vector_size(kVectorBytes / 2)));
typedef uint32_t WideBits __attribute__((vector_size(kVectorBytes)));

// Numbers of any stored type as a vector of the type of computation, and back.
template <class T, class Stored>
inline Vector<T> load_as(const Stored* p) {
  if constexpr (std::is_same_v<Stored, T>) {
    return load(p);
  } else if constexpr (std::is_same_v<Stored, BFloat16>) {
    HalfBits bits;
    __builtin_memcpy(&bits, p, sizeof bits);
    return __builtin_bit_cast(Vector<T>, __builtin_convertvector(bits, WideBits) << 16);
  } else {
    Halves half;
    __builtin_memcpy(&half, p, sizeof half);
    return __builtin_convertvector(half, Vector<T>);
  }
}

template <class T, class Stored>
inline void store_as(Stored* p, Vector<T> v) {
  if constexpr (std::is_same_v<Stored, T>) {
    store(p, v);
  } else if constexpr (std::is_same_v<T, double>) {
    const HalfFloats narrow = __builtin_convertvector(v, HalfFloats);
    __builtin_memcpy(p, &narrow, sizeof narrow);
  } else if constexpr (std::is_same_v<Stored, BFloat16>) {
    const WideBits u = __builtin_bit_cast(WideBits, v);
    const WideBits rounded = (u + 0x7fff + ((u >> 16) & 1)) >> 16;  // to nearest, ties to even
    const HalfBits bits = __builtin_convertvector(v == v ? rounded : WideBits{} + 0x7fc0, HalfBits);
    __builtin_memcpy(p, &bits, sizeof bits);
  } else {
    const Halves half = __builtin_convertvector(v, Halves);
    __builtin_memcpy(p, &half, sizeof half);
  }
}

// The same for the first `count` lanes only, for the end of a row.
template <class T, class Stored>
inline Vector<T> load_some(const Stored* p, int64_t count) {
  if (count >= kLanes<T>) [[likely]]
    return load_as<T>(p);
#if defined(__AVX512F__)
  if constexpr (std::is_same_v<Stored, float>)
    return Vector<T>(_mm512_maskz_loadu_ps(__mmask16((1 << count) - 1), p));
  if constexpr (std::is_same_v<Stored, double>)
    return Vector<T>(_mm512_maskz_loadu_pd(__mmask8((1 << count) - 1), p));
#endif
  Stored room[kLanes<T>] = {};
  __builtin_memcpy(room, p, count * sizeof(Stored));
  return load_as<T>(room);
}

template <class T, class Stored>
inline void store_some(Stored* p, Vector<T> v, int64_t count) {
  if (count >= kLanes<T>) [[likely]]
    return store_as<T>(p, v);
#if defined(__AVX512F__)
  if constexpr (std::is_same_v<Stored, float>)
    return _mm512_mask_storeu_ps(p, __mmask16((1 << count) - 1), __m512(v));
  if constexpr (std::is_same_v<Stored, double>)
    return _mm512_mask_storeu_pd(p, __mmask8((1 << count) - 1), __m512d(v));
#endif
  Stored room[kLanes<T>];
  store_as<T>(room, v);
  __builtin_memcpy(p, room, count * sizeof(Stored));
}

template <class T>
inline T sum_of(Vector<T> v) {
  LaneIndex<T> lane;
  for (int i = 0; i < kLanes<T>; i++) lane[i] = i;
#pragma GCC unroll 4
  for (int half = kLanes<T> / 2; half; half /= 2) v += pick<T>(v, v, lane ^ half);
  return v[0];
}

// A row of computed numbers, padded to whole vectors, from a stored one, and back.
template <class T, class Stored>
inline void load_row(T* to, const Stored* from, int64_t count) {
  for (int64_t c = 0; c < count; c += kLanes<T>) store(to + c, load_some<T>(from + c, count - c));
}
template <class T, class Stored>
inline void store_row(Stored* to, const T* from, int64_t count) {
  for (int64_t c = 0; c < count; c += kLanes<T>) store_some<T>(to + c, load(from + c), count - c);
}

template <class Stored>
inline void fill_zero(Stored* out, int64_t width) {
  for (int64_t c = 0; c < width; c++) out[c] = Stored(0.0f);
}

}  // namespace longrnn
