// Chains of numbers that lie anywhere in memory, side by side: vector k holds number k of every
// chain, a chain a lane. Taking them apart and together again is a transposition in registers.
#pragma once

#include <utility>

#include "vector.h"

namespace longrnn {

// Every second block of kBlock lanes: the even ones of `a` and `b`, or the odd ones.
template <class T, int kBlock, bool kOdd, int... i>
inline Vector<T> interleave(Vector<T> a, Vector<T> b, std::integer_sequence<int, i...>) {
  return __builtin_shufflevector(
      a, b, (i & kBlock ? kLanes<T> + i - (kOdd ? 0 : kBlock) : i + (kOdd ? kBlock : 0))...);
}
template <class T, int kBlock, bool kOdd>
inline Vector<T> interleave(Vector<T> a, Vector<T> b) {
  return interleave<T, kBlock, kOdd>(a, b, std::make_integer_sequence<int, kLanes<T>>());
}

// Rows are chains with kCount numbers each, a power of two; afterwards the first kCount rows are
// numbers, of all chains. Each stage swaps one bit of a number's row and lane.
template <class T, int kCount, int kBlock = kLanes<T> / 2>
inline void chains_to_numbers(Vector<T>* rows) {
  if constexpr (kBlock > 0) {
    constexpr int kRows = kBlock < kCount ? kCount : 2 * kBlock;
#pragma GCC unroll 16
    for (int i = 0; i < kRows; i++) {
      if (i & kBlock) continue;
      const Vector<T> a = rows[i], b = rows[i + kBlock];
      rows[i] = interleave<T, kBlock, false>(a, b);
      if constexpr (kBlock < kCount) rows[i + kBlock] = interleave<T, kBlock, true>(a, b);
    }
    chains_to_numbers<T, kCount, kBlock / 2>(rows);
  }
}

template <class T, int kCount, int kBlock = 1>
inline void numbers_to_chains(Vector<T>* rows) {
  if constexpr (kBlock < kLanes<T>) {
    constexpr int kRows = kBlock < kCount ? kCount : 2 * kBlock;
#pragma GCC unroll 16
    for (int i = 0; i < kRows; i++) {
      if (i & kBlock) continue;
      const Vector<T> a = rows[i], b = kBlock < kCount ? rows[i + kBlock] : a;
      if constexpr (kBlock < kCount) rows[i] = interleave<T, kBlock, false>(a, b);
      rows[i + kBlock] = interleave<T, kBlock, true>(a, b);
    }
    numbers_to_chains<T, kCount, 2 * kBlock>(rows);
  }
}

// Chains of kCount numbers each, a power of two, that lie end to end: their vectors as memory has
// them become number k of every chain in vector k, and back. Each stage takes every second lane.
template <class T, int... i>
inline void unzip(Vector<T> a, Vector<T> b, Vector<T>& even, Vector<T>& odd,
                  std::integer_sequence<int, i...>) {
  even = __builtin_shufflevector(a, b, 2 * i...);
  odd = __builtin_shufflevector(a, b, (2 * i + 1)...);
}
template <class T, int... i>
inline void zip(Vector<T> even, Vector<T> odd, Vector<T>& a, Vector<T>& b,
                std::integer_sequence<int, i...>) {
  constexpr int n = kLanes<T>;
  a = __builtin_shufflevector(even, odd, (i / 2 + i % 2 * n)...);
  b = __builtin_shufflevector(even, odd, (n / 2 + i / 2 + i % 2 * n)...);
}

template <class T, int kCount, bool kUnzip, int kStage = 1>
inline void exchange(Vector<T>* rows) {
  if constexpr (kStage < kCount) {
    constexpr auto lanes = std::make_integer_sequence<int, kLanes<T>>();
    constexpr int kHalf = kCount / 2;
    Vector<T> from[kCount];
#pragma GCC unroll 16
    for (int i = 0; i < kCount; i++) from[i] = rows[i];
#pragma GCC unroll 8
    for (int i = 0; i < kHalf; i++) {
      if constexpr (kUnzip)
        unzip<T>(from[2 * i], from[2 * i + 1], rows[i], rows[i + kHalf], lanes);
      else
        zip<T>(from[i], from[i + kHalf], rows[2 * i], rows[2 * i + 1], lanes);
    }
    exchange<T, kCount, kUnzip, 2 * kStage>(rows);
  }
}

// Reads `count` numbers of each chain, at each of `steps` places `stride` apart, and asks for those
// that lie `ahead`; false if `count` is no power of two from 2 to a vector's lanes.
template <class T, int kCount = 2, class Stored>
bool gather_together(const Stored* from, int64_t stride, int64_t steps, int64_t count,
                     int64_t ahead, T* to) {
  if constexpr (kCount > kLanes<T>) {
    return false;
  } else {
    if (count != kCount)
      return gather_together<T, 2 * kCount>(from, stride, steps, count, ahead, to);
    for (int64_t r = 0; r < steps; r++, from += stride) {
      Vector<T> rows[kCount];
#pragma GCC unroll 16
      for (int k = 0; k < kCount; k++) {
        rows[k] = load_as<T>(from + k * kLanes<T>);
        __builtin_prefetch(from + k * kLanes<T> + ahead);
      }
      exchange<T, kCount, true>(rows);
#pragma GCC unroll 16
      for (int k = 0; k < kCount; k++, to += kLanes<T>) store(to, rows[k]);
    }
    return true;
  }
}

// The way back; `streamed`: past the cache, where that can be.
template <class T, int kCount = 2, class Stored>
bool scatter_together(Stored* to, int64_t stride, int64_t steps, int64_t count, bool streamed,
                      const T* from) {
  if constexpr (kCount > kLanes<T>) {
    return false;
  } else {
    if (count != kCount)
      return scatter_together<T, 2 * kCount>(to, stride, steps, count, streamed, from);
    for (int64_t r = 0; r < steps; r++, to += stride) {
      Vector<T> rows[kCount];
#pragma GCC unroll 16
      for (int k = 0; k < kCount; k++, from += kLanes<T>) rows[k] = load(from);
      exchange<T, kCount, false>(rows);
      if constexpr (std::is_same_v<Stored, T>)
        if (streamed && uintptr_t(to) % kVectorBytes == 0) {
#pragma GCC unroll 16
          for (int k = 0; k < kCount; k++) stream(to + k * kLanes<T>, rows[k]);
          continue;
        }
#pragma GCC unroll 16
      for (int k = 0; k < kCount; k++) store_as<T>(to + k * kLanes<T>, rows[k]);
    }
    return true;
  }
}

// The first kCount lanes, to memory, by one store of their own width.
template <class T, class Stored, int... i>
inline void store_first(Stored* p, Vector<T> v, std::integer_sequence<int, i...>) {
  constexpr int kCount = sizeof...(i);
  if constexpr (!std::is_same_v<Stored, T> || kCount == 1 || kCount == kLanes<T>) {
    store_some<T>(p, v, kCount);
  } else {
    typedef T First __attribute__((vector_size(kCount * sizeof(T))));
    const First first = __builtin_shufflevector(v, v, i...);
    __builtin_memcpy(p, &first, sizeof first);
  }
}

template <int kCount, class T, class Stored>
inline void gather_few(const Stored* from, const int64_t* chains, int64_t count, T* to) {
  if constexpr (kCount > 1)
    if (count <= kCount / 2) return gather_few<kCount / 2>(from, chains, count, to);
  Vector<T> rows[kLanes<T>];
  auto read = [&](int64_t numbers) {
#pragma GCC unroll 16
    for (int c = 0; c < kLanes<T>; c++) rows[c] = load_some<T>(from + chains[c], numbers);
    chains_to_numbers<T, kCount>(rows);
  };
  if (count >= kCount) {
    read(kCount);
#pragma GCC unroll 16
    for (int k = 0; k < kCount; k++) store(to + k * kLanes<T>, rows[k]);
  } else {
    read(count);
    for (int k = 0; k < count; k++) store(to + k * kLanes<T>, rows[k]);
  }
}

// Reads `count` numbers of each chain; a chain begins at `from` and its entry of `chains`.
template <class T, class Stored>
__attribute__((noinline)) void gather(const Stored* from, const int64_t* chains, int64_t count,
                                      T* to) {
  for (int64_t k = 0; k < count; k += kLanes<T>)
    gather_few<kLanes<T>>(from + k, chains, count - k, to + k * kLanes<T>);
}

template <int kCount, class T, class Stored>
inline void scatter_few(Stored* to, const int64_t* chains, int64_t live, int64_t count,
                        const T* from) {
  if constexpr (kCount > 1)
    if (count <= kCount / 2) return scatter_few<kCount / 2>(to, chains, live, count, from);
  Vector<T> rows[kLanes<T>];
  if (count >= kCount && live == kLanes<T>) {
#pragma GCC unroll 16
    for (int k = 0; k < kCount; k++) rows[k] = load(from + k * kLanes<T>);
    numbers_to_chains<T, kCount>(rows);
#pragma GCC unroll 16
    for (int c = 0; c < kLanes<T>; c++)
      store_first<T>(to + chains[c], rows[c], std::make_integer_sequence<int, kCount>());
  } else {
    for (int k = 0; k < kCount; k++) rows[k] = k < count ? load(from + k * kLanes<T>) : Vector<T>{};
    numbers_to_chains<T, kCount>(rows);
    for (int c = 0; c < live; c++)
      store_some<T>(to + chains[c], rows[c], count < kCount ? count : kCount);
  }
}

// Writes `count` numbers of each of the first `live` chains.
template <class T, class Stored>
__attribute__((noinline)) void scatter(Stored* to, const int64_t* chains, int64_t live,
                                       int64_t count, const T* from) {
  for (int64_t k = 0; k < count; k += kLanes<T>)
    scatter_few<kLanes<T>>(to + k, chains, live, count - k, from + k * kLanes<T>);
}

}  // namespace longrnn
