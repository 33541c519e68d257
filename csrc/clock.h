// The clock of units that each open for a part of their own period. Definition in words:
// src/longrnn/ops/time_gate/plain.py.
#pragma once

#include <cmath>
#include <limits>

#include "math.h"
#include "product.h"

namespace longrnn {

// When each unit is open. Phases are computed in double: stamps may be large.
template <class T>
struct Clock {
  int64_t n;
  Buffer<double> period, frequency, shift;
  Buffer<T> on_ratio, inverse_ratio, narrow_frequency;
  T leak;
  double reach;  // stamps up to here are whole turns and a rest that a double can tell

  Clock(int64_t n, const T* given_period, const T* given_shift, const T* given_ratio, double leak)
      : n(n), period(zeros<double>(padded<T>(n))), frequency(zeros<double>(padded<T>(n))),
        shift(zeros<double>(padded<T>(n))), on_ratio(zeros<T>(padded<T>(n))),
        inverse_ratio(zeros<T>(padded<T>(n))), narrow_frequency(zeros<T>(padded<T>(n))),
        leak(T(leak)), reach(HUGE_VAL) {
    for (int64_t j = 0; j < padded<T>(n); j++) {
      period[j] = j < n ? double(given_period[j]) : 1;
      frequency[j] = 1 / period[j];
      shift[j] = j < n ? double(given_shift[j]) : 0;
      on_ratio[j] = j < n ? given_ratio[j] : T(1);
      const T steepest = std::numeric_limits<T>::max() / 4;  // a slope is a number, too
      inverse_ratio[j] = 1 / on_ratio[j] < steepest ? 1 / on_ratio[j] : steepest;
      narrow_frequency[j] = T(frequency[j]);
      const double far = 0x1p51 * period[j] - std::fabs(shift[j]);
      reach = reach < far ? reach : far;
    }
  }

  // Of each unit (t - shift) mod period / period; and, where asked for, (t - shift) / period.
  void phases(double t, T* phase, T* cycles) const { phases(t, 0, n, phase, cycles); }
  void phases(double t, int64_t begin, int64_t end, T* phase, T* cycles) const {
    using V = Vector<double>;
    if (!(std::fabs(t) < reach)) return far_phases(t, begin, end, phase, cycles);
    for (int64_t j = begin; j < end; j += kLanes<double>) {
      const V since = t - load(&shift[j]), turns = since * load(&frequency[j]);
      const V near = turns + ExpRange<double>::kRound - ExpRange<double>::kRound;
      const V whole = near > turns ? near - 1 : near, p = load(&period[j]);
      V rest = since - whole * p;
      rest = rest < 0 ? rest + p : rest;
      rest = rest >= p ? rest - p : rest;
      V part = rest * load(&frequency[j]);
      part = part >= 1 ? V{} : part;  // in this order a NaN stays one
      store_as<double>(phase + j, part);
      if (cycles) store_as<double>(cycles + j, turns);
    }
  }

  // The same, slowly, for stamps beyond that and for those that are no number.
  void far_phases(double t, int64_t begin, int64_t end, T* phase, T* cycles) const {
    for (int64_t j = begin; j < end; j++) {
      const double since = t - shift[j], rest = std::fmod(since, period[j]);
      const double part = (rest < 0 ? rest + period[j] : rest) * frequency[j];
      phase[j] = T(part >= 1 ? 0 : part);
      if (cycles) cycles[j] = T(since * frequency[j]);
    }
  }

  template <class V>
  struct Opening {
    V k, slope, by_ratio;  // k, and its derivatives by the phase and by on_ratio
  };
  Opening<Vector<T>> opening(const T* phase, int64_t j) const {
    using V = Vector<T>;
    const V per_ratio = load(&inverse_ratio[j]), phi = load(phase + j), part = phi * per_ratio;
    const auto open = phi < load(&on_ratio[j]), rising = part < T(0.5);
    const V ramp = rising ? 2 * part : 2 - 2 * part, slope = rising ? 2 * per_ratio : -2 * per_ratio;
    return {open ? ramp : leak * phi, open ? slope : all<V>(leak), open ? -slope * part : V{}};
  }
};

// A bit for each lane, the first lowest.
template <class T>
inline uint64_t lanes_not_zero(Vector<T> k) {
#if defined(__AVX512F__) && defined(__AVX512DQ__)
  const auto open = k != 0;
  if constexpr (sizeof(T) == 4) return _mm512_movepi32_mask(__m512i(open));
  else return _mm512_movepi64_mask(__m512i(open));
#else
  uint64_t lanes = 0;
  for (int i = 0; i < kLanes<T>; i++) lanes |= uint64_t(k[i] != 0) << i;
  return lanes;
#endif
}

}  // namespace longrnn
