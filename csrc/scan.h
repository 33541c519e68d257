// The recurrence over one tile: `rows` steps of `width` channels that fit the cache, or a whole
// sequence. Time runs up in memory, or down (`Down`). All rows of an array are `*_row` apart.
//
//   forward   h = a * carry + x;                carry = h
//   adjoint   s = carry + y;  grad_a = s * conj(before);  carry = conj(a) * s
//
// Many channels: one pass, vectors across channels. Fewer than a vector's lanes: several steps
// lie in one vector, which is scanned in log2(steps) shifts.
#pragma once

#include <cstdint>

#include "number.h"
#include "vector.h"

namespace longrnn {

enum class Store { kNone, kCached, kStreamed };

template <class T>
struct ForwardTile {
  using Number = T;
  int64_t rows, width;
  const T* a;
  int64_t a_row;
  const T* x;
  int64_t x_row;
  T* h;
  int64_t h_row;
  bool singly = false;  // no step is composed with another: a decay of 1 keeps the state's bits
};

template <class T>
struct AdjointTile {
  using Number = T;
  int64_t rows, width;
  const T* a;
  int64_t a_row;
  const T* y;
  int64_t y_row;
  const T* before;  // the state before each step; null where grad_a is not wanted
  int64_t before_row;
  T* s;
  int64_t s_row;
  T* grad_a;
  int64_t grad_a_row;
};

template <class T>
constexpr bool kVectorised = std::is_floating_point_v<T>;

template <class T, Store kStore>
inline void put(T* p, Vector<T> v) {
  if constexpr (kStore == Store::kStreamed) stream(p, v);
  if constexpr (kStore == Store::kCached) store(p, v);
}

// ---------------------------------------------------------------- many channels

template <class T, Store kStore, bool kProduct>
void forward_row(const ForwardTile<T>& tile, int64_t r, T* carry, T* product) {
  const T *a = tile.a + r * tile.a_row, *x = tile.x + r * tile.x_row;
  T* h = kStore == Store::kNone ? nullptr : tile.h + r * tile.h_row;
  int64_t c = 0;
  if constexpr (kVectorised<T>) {
    for (; c + kLanes<T> <= tile.width; c += kLanes<T>) {
      Vector<T> decay = load(a + c), v = decay * load(carry + c) + load(x + c);
      store(carry + c, v);
      if constexpr (kProduct) store(product + c, decay * load(product + c));
      put<T, kStore>(h + c, v);
    }
  }
  for (; c < tile.width; c++) {
    carry[c] = a[c] * carry[c] + x[c];
    if constexpr (kProduct) product[c] = a[c] * product[c];
    if constexpr (kStore != Store::kNone) h[c] = carry[c];
  }
}

template <class T, Store kStore, bool kProduct>
void adjoint_row(const AdjointTile<T>& tile, int64_t r, T* carry, T* product) {
  const T *a = tile.a + r * tile.a_row, *y = tile.y + r * tile.y_row;
  const T* before = tile.before ? tile.before + r * tile.before_row : nullptr;
  T* s = kStore == Store::kNone ? nullptr : tile.s + r * tile.s_row;
  T* grad_a = before ? tile.grad_a + r * tile.grad_a_row : nullptr;
  int64_t c = 0;
  if constexpr (kVectorised<T>) {
    for (; c + kLanes<T> <= tile.width; c += kLanes<T>) {
      Vector<T> decay = load(a + c), v = load(carry + c) + load(y + c);
      store(carry + c, decay * v);
      if constexpr (kProduct) store(product + c, decay * load(product + c));
      put<T, kStore>(s + c, v);
      if constexpr (kStore != Store::kNone)
        if (before) put<T, kStore>(grad_a + c, v * load(before + c));
    }
  }
  for (; c < tile.width; c++) {
    T v = carry[c] + y[c];
    carry[c] = conj(a[c]) * v;
    if constexpr (kProduct) product[c] = conj(a[c]) * product[c];
    if constexpr (kStore != Store::kNone) {
      s[c] = v;
      if (before) grad_a[c] = v * conj(before[c]);
    }
  }
}

// ---------------------------------------------------------------- few channels

// Where in a vector the rows of a few-channel tile lie: `used` lanes hold whole rows, at the
// low end when time runs up and at the high end when it runs down, so that a full-vector store
// spills only into rows that are still to be written.
template <class T, bool kDown>
struct Lanes {
  static constexpr int kMaxShifts = 4;
  int64_t rows, used;
  int shifts = 0;
  LaneIndex<T> shift[kMaxShifts], channel, last_row;

  explicit Lanes(int64_t width) : rows(kLanes<T> / width), used(rows * width) {
    for (int64_t by = width; by < used; by *= 2, shifts++)
      for (int64_t i = 0; i < kLanes<T>; i++) {
        int64_t from = kDown ? i + by : i - by;
        shift[shifts][i] = from >= 0 && from < kLanes<T> ? from : kLanes<T> + i;
      }
    for (int64_t i = 0; i < kLanes<T>; i++) {
      channel[i] = kDown ? (i + used * kLanes<T> - (kLanes<T> - used)) % width : i % width;
      last_row[i] = (kDown ? kLanes<T> - used : used - width) + channel[i];
    }
  }

  // One number a channel, in every lane of that channel; and back, from the last row in time.
  Vector<T> spread(const T* numbers) const {
    Vector<T> v;
    for (int64_t i = 0; i < kLanes<T>; i++) v[i] = numbers[channel[i]];
    return v;
  }
  Vector<T> spread_last_row(Vector<T> v) const { return pick<T>(v, v, last_row); }
  void gather(Vector<T> v, T* numbers) const {
    for (int64_t i = 0; i < kLanes<T>; i++) numbers[channel[i]] = v[last_row[i]];
  }

  // Turns decays and impulses of single steps into those of all steps up to each lane's.
  void scan(Vector<T>& a, Vector<T>& x) const {
    const Vector<T> one = Vector<T>{} + T(1), zero = {};
    for (int k = 0; k < shifts; k++) {
      x += a * pick<T>(x, zero, shift[k]);
      a *= pick<T>(a, one, shift[k]);
    }
  }
};

// Walks a tile whose rows lie end to end (row = width < lanes) and calls, in the order of time,
// vector(offset of a vector's first lane) or row(offset of a single row).
template <class T, bool kDown, class OnVector, class OnRow>
void walk_few(int64_t rows, int64_t width, const Lanes<T, kDown>& lanes, OnVector&& vector,
              OnRow&& row) {
  int64_t end = rows * width;
  if constexpr (kDown) {
    int64_t top = end;
    for (; top - kLanes<T> >= 0; top -= lanes.used) vector(top - kLanes<T>);
    for (; top > 0; top -= width) row(top - width);
  } else {
    int64_t at = 0;
    for (; at + kLanes<T> <= end; at += lanes.used) vector(at);
    for (; at < end; at += width) row(at);
  }
}

template <class T, Store kStore, bool kProduct, bool kDown>
void forward_few(const ForwardTile<T>& tile, T* carry, T* product) {
  const Lanes<T, kDown> lanes(tile.width);
  Vector<T> h = lanes.spread(carry), p = {};
  if constexpr (kProduct) p = lanes.spread(product);
  bool in_vectors = true;
  auto leave_vectors = [&] {
    if (in_vectors) {
      lanes.gather(h, carry);
      if constexpr (kProduct) lanes.gather(p, product);
      in_vectors = false;
    }
  };
  walk_few<T, kDown>(
      tile.rows, tile.width, lanes,
      [&](int64_t at) {
        Vector<T> a = load(tile.a + at), x = load(tile.x + at);
        lanes.scan(a, x);
        Vector<T> v = a * h + x;
        put<T, kStore>(tile.h + at, v);
        h = lanes.spread_last_row(v);
        if constexpr (kProduct) p *= lanes.spread_last_row(a);
      },
      [&](int64_t at) {
        leave_vectors();
        forward_row<T, kStore, kProduct>(tile, at / tile.width, carry, product);
      });
  leave_vectors();
}

// With q the carry into a step: q' = a (q + y), so q' is a scan of decays a and impulses a y,
// and s = y + q' of the step before.
template <class T, Store kStore, bool kProduct, bool kDown>
void adjoint_few(const AdjointTile<T>& tile, T* carry, T* product) {
  const Lanes<T, kDown> lanes(tile.width);
  Vector<T> q = lanes.spread(carry), p = {};
  if constexpr (kProduct) p = lanes.spread(product);
  bool in_vectors = true;
  auto leave_vectors = [&] {
    if (in_vectors) {
      lanes.gather(q, carry);
      if constexpr (kProduct) lanes.gather(p, product);
      in_vectors = false;
    }
  };
  walk_few<T, kDown>(
      tile.rows, tile.width, lanes,
      [&](int64_t at) {
        Vector<T> a = load(tile.a + at), y = load(tile.y + at), x = a * y;
        lanes.scan(a, x);
        Vector<T> after = a * q + x, s = y + pick<T>(after, q, lanes.shift[0]);
        put<T, kStore>(tile.s + at, s);
        if constexpr (kStore != Store::kNone)
          if (tile.before) put<T, kStore>(tile.grad_a + at, s * load(tile.before + at));
        q = lanes.spread_last_row(after);
        if constexpr (kProduct) p *= lanes.spread_last_row(a);
      },
      [&](int64_t at) {
        leave_vectors();
        adjoint_row<T, kStore, kProduct>(tile, at / tile.width, carry, product);
      });
  leave_vectors();
}

// ---------------------------------------------------------------- the two together

template <class T>
bool fits_few(int64_t rows, int64_t width) {
  return kPicksQuickly && width * 2 <= kLanes<T> && rows * width >= kLanes<T>;
}

template <class T, Store kStore, bool kProduct, bool kDown>
void forward_in(const ForwardTile<T>& tile, T* carry, T* product) {
  if constexpr (kVectorised<T>) {
    if (fits_few<T>(tile.rows, tile.width) && !tile.singly && tile.a_row == tile.width &&
        tile.x_row == tile.width && (kStore == Store::kNone || tile.h_row == tile.width))
      return forward_few<T, kStore, kProduct, kDown>(tile, carry, product);
  }
  for (int64_t i = 0; i < tile.rows; i++)
    forward_row<T, kStore, kProduct>(tile, kDown ? tile.rows - 1 - i : i, carry, product);
}

template <class T, Store kStore, bool kProduct, bool kDown>
void adjoint_in(const AdjointTile<T>& tile, T* carry, T* product) {
  if constexpr (kVectorised<T>) {
    const int64_t width = tile.width;
    if (fits_few<T>(tile.rows, width) && tile.a_row == width && tile.y_row == width &&
        (kStore == Store::kNone ||
         (tile.s_row == width &&
          (!tile.before || (tile.before_row == width && tile.grad_a_row == width)))))
      return adjoint_few<T, kStore, kProduct, kDown>(tile, carry, product);
  }
  for (int64_t i = 0; i < tile.rows; i++)
    adjoint_row<T, kStore, kProduct>(tile, kDown ? tile.rows - 1 - i : i, carry, product);
}

// Runs a tile: writes its states and leaves the last one in `carry`.
template <class T>
__attribute__((noinline)) void run(const ForwardTile<T>& tile, bool down, bool streamed, T* carry) {
  constexpr T* kNo = nullptr;
  if (streamed)
    down ? forward_in<T, Store::kStreamed, false, true>(tile, carry, kNo)
         : forward_in<T, Store::kStreamed, false, false>(tile, carry, kNo);
  else
    down ? forward_in<T, Store::kCached, false, true>(tile, carry, kNo)
         : forward_in<T, Store::kCached, false, false>(tile, carry, kNo);
}

template <class T>
__attribute__((noinline)) void run(const AdjointTile<T>& tile, bool down, bool streamed, T* carry) {
  constexpr T* kNo = nullptr;
  if (streamed)
    down ? adjoint_in<T, Store::kStreamed, false, true>(tile, carry, kNo)
         : adjoint_in<T, Store::kStreamed, false, false>(tile, carry, kNo);
  else
    down ? adjoint_in<T, Store::kCached, false, true>(tile, carry, kNo)
         : adjoint_in<T, Store::kCached, false, false>(tile, carry, kNo);
}

// What a tile does to any state: state after = product * state before + carry. Writes no states.
template <class T>
__attribute__((noinline)) void reduce(const ForwardTile<T>& tile, bool down, T* carry, T* product) {
  down ? forward_in<T, Store::kNone, true, true>(tile, carry, product)
       : forward_in<T, Store::kNone, true, false>(tile, carry, product);
}

template <class T>
__attribute__((noinline)) void reduce(const AdjointTile<T>& tile, bool down, T* carry, T* product) {
  down ? adjoint_in<T, Store::kNone, true, true>(tile, carry, product)
       : adjoint_in<T, Store::kNone, true, false>(tile, carry, product);
}

}  // namespace longrnn
