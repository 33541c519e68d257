// Layers with weights on their state: the cells of nn.LSTM and nn.GRU on vectors, and their weights
// packed for rows [h, x]. Definitions in words: src/longrnn/ops/candidates.py.
//
// A row of pre-activations has four blocks of n, padded to whole vectors: an LSTM's gates i, f, g,
// o; a GRU's candidate from the input, r, z, and candidate from the state.
#pragma once

#include "math.h"
#include "product.h"

namespace longrnn {

//   activate(g, h, c)                    pre-activations to what is kept of a step
//   candidate(g, h, c, new_h, new_c)     from what was kept
//   backward(g, h, c, gh, gc, d, dh, dc) gh, gc: gradients of the candidates; d: of the
//                                        pre-activations; dh, dc: of the state, but for products
struct LstmCell {
  static constexpr int kGates = 4;
  static constexpr bool kCells = true, kResetsBefore = false;

  template <class V>
  static void activate(V (&g)[4]) {
    g[0] = sigmoid(g[0]);
    g[1] = sigmoid(g[1]);
    g[2] = hyperbolic_tangent(g[2]);
    g[3] = sigmoid(g[3]);
  }
  template <class V>
  static void candidate(const V (&g)[4], V, V c, V& new_h, V& new_c) {
    new_c = g[1] * c + g[0] * g[2];
    new_h = g[3] * hyperbolic_tangent(new_c);
  }
  template <class V>
  static void backward(const V (&g)[4], V, V c, V gh, V gc, V (&d)[4], V& dh, V& dc) {
    const V t = hyperbolic_tangent(g[1] * c + g[0] * g[2]);
    gc += gh * g[3] * (1 - t * t);
    d[0] = gc * g[2] * g[0] * (1 - g[0]);
    d[1] = gc * c * g[1] * (1 - g[1]);
    d[2] = gc * g[0] * (1 - g[2] * g[2]);
    d[3] = gh * t * g[3] * (1 - g[3]);
    dh = V{};
    dc = gc * g[1];
  }
};

template <bool kBefore>
struct GruCell {
  static constexpr int kGates = 3;
  static constexpr bool kCells = false, kResetsBefore = kBefore;

  template <class V>
  static void activate(V (&g)[4]) {
    if (!kBefore) g[1] = sigmoid(g[1]);  // else the second product had need of it
    g[2] = sigmoid(g[2]);
    g[0] = hyperbolic_tangent(g[0] + (kBefore ? g[3] : g[1] * g[3]));
  }
  template <class V>
  static void candidate(const V (&g)[4], V h, V, V& new_h, V& new_c) {
    new_c = new_h = (1 - g[2]) * g[0] + g[2] * h;
  }
  // Of a cell that resets before, d[1] and a part of dh are missing: see reset_backward.
  template <class V>
  static void backward(const V (&g)[4], V h, V, V gh, V, V (&d)[4], V& dh, V& dc) {
    d[0] = gh * (1 - g[2]) * (1 - g[0] * g[0]);
    d[1] = d[0] * g[3] * g[1] * (1 - g[1]);
    d[2] = gh * (h - g[0]) * g[2] * (1 - g[2]);
    d[3] = kBefore ? d[0] : d[0] * g[1];
    dh = gh * g[2];
    dc = V{};
  }
};

// What a layer's weights are packed for: a way, or a few rows forward.
enum Use { kForward, kFewRows, kBackward };

// One layer's weights for both ways. A row of states is [h | x | r h], h and r h padded.
template <class T, class Cell>
struct HiddenLayer {
  static constexpr int G = Cell::kGates;
  int64_t n = 0, m = 0;   // units, features of the input
  int64_t block = 0;      // units, padded
  Buffer<T> bias;

  int64_t state_row() const { return block + padded<T>(m) + (Cell::kResetsBefore ? block : 0); }
  int64_t gate_row() const { return 4 * block; }
  int64_t gradient_row() const { return block + padded<T>(m); }  // of [h | x]

  int64_t bytes() const { return all_.bytes() + input_.bytes() + state_.bytes(); }

  HiddenLayer() = default;
  HiddenLayer(int64_t n, int64_t m, const T* weight_ih, const T* weight_hh,
              const T* given, Use use)
      : n(n), m(m), block(padded<T>(n)), bias(zeros<T>(4 * block)) {
    for (int k = 0; k < 4; k++)
      for (int64_t j = 0; j < n; j++) bias[k * block + j] = given[k * n + j];
    if (use == kBackward) pack_backward(weight_ih, weight_hh);
    else pack_forward(weight_ih, weight_hh, use == kFewRows);
  }

  // Pre-activations of `rows` rows, which hold the biases, from their states.
  void add_products(int64_t rows, const T* states, T* gates) const {
    if constexpr (G == 4) {
      all_.add_product(rows, states, state_row(), gates, gate_row());
    } else {
      input_.add_product(rows, states + block, state_row(), gates, gate_row());
      all_.add_product(rows, states, state_row(), gates + block, gate_row());
      if (!Cell::kResetsBefore)
        state_.add_product(rows, states, state_row(), gates + 3 * block, gate_row());
    }
  }
  // The same for the candidate of a cell that resets before, from r h.
  void add_reset_product(int64_t rows, const T* states, T* gates) const {
    state_.add_product(rows, states + state_row() - block, state_row(), gates + 3 * block,
                       gate_row());
  }

  // Gradients of [h | x] from those of the pre-activations.
  void add_gradients(int64_t rows, const T* d, T* out) const {
    if constexpr (G == 4) {
      all_.add_product(rows, d, gate_row(), out, gradient_row());
    } else {
      all_.add_product(rows, d + block, gate_row(), out, gradient_row());
      input_.add_product(rows, d, gate_row(), out + block, gradient_row());
    }
  }
  // Gradients of r h.
  void add_reset_gradients(int64_t rows, const T* d, T* out, int64_t out_row) const {
    state_.add_product(rows, d + 3 * block, gate_row(), out, out_row);
  }

 private:
  Packed<T> all_, input_, state_;

  void pack_forward(const T* ih, const T* hh, bool in_place) {
    // The blocks that see both h and x: all of an LSTM's, r and z of a GRU's.
    const int both = G == 4 ? 4 : 2;
    all_ = Packed<T>(block + m, both * block, in_place);
    for (int k = 0; k < both; k++) {
      all_.set(0, k * block, hh + k * n * n, n, n, 1, n);
      all_.set(block, k * block, ih + k * n * m, m, n, 1, m);
    }
    if (G == 4) return;
    input_ = Packed<T>(m, block, in_place);
    input_.set(0, 0, ih + 2 * n * m, m, n, 1, m);
    state_ = Packed<T>(block, block, in_place);
    state_.set(0, 0, hh + 2 * n * n, n, n, 1, n);
  }

  void pack_backward(const T* ih, const T* hh) {
    if (G == 4) {
      all_ = Packed<T>(4 * block, gradient_row());
      for (int k = 0; k < 4; k++) {
        all_.set(k * block, 0, hh + k * n * n, n, n, n, 1);
        all_.set(k * block, block, ih + k * n * m, n, m, m, 1);
      }
      return;
    }
    const int of_state = Cell::kResetsBefore ? 2 : 3;  // blocks r, z (and the candidate's)
    all_ = Packed<T>(of_state * block, block);
    for (int k = 0; k < of_state; k++) all_.set(k * block, 0, hh + k * n * n, n, n, n, 1);
    if (Cell::kResetsBefore) {
      state_ = Packed<T>(block, block);
      state_.set(0, 0, hh + 2 * n * n, n, n, n, 1);
    }
    input_ = Packed<T>(3 * block, m);  // candidate, r, z
    for (int k = 0; k < 3; k++)
      input_.set(k * block, 0, ih + (k + 2) % 3 * n * m, n, m, m, 1);
  }
};

}  // namespace longrnn
