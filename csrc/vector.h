// Vectors as wide as the instruction set this file is compiled for, in GCC's and Clang's own
// vector extension: arithmetic operators work lane by lane on every architecture.
#pragma once

#include <cstdint>
#include <type_traits>

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

}  // namespace longrnn
