// Products of a few rows with a weight matrix that lies packed in panels: what a recurrence with
// weights on its state does at every step. A row's result does not depend on its neighbours.
#pragma once

#include <cstdint>
#include <cstdlib>
#include <memory>
#include <vector>

#include "vector.h"

namespace longrnn {

constexpr int kPanelVectors = kVectorBytes == 64 ? 4 : 2;  // these and the rows' sums fit registers
constexpr int kRowBlock = 6;

template <class T>
struct Freed {
  void operator()(T* p) const { std::free(p); }
};
template <class T>
using Buffer = std::unique_ptr<T[], Freed<T>>;

// Zeros, on the boundary of a vector.
template <class T>
Buffer<T> zeros(int64_t count) {
  const size_t bytes = (size_t(count) * sizeof(T) / kVectorBytes + 1) * kVectorBytes;
  T* p = static_cast<T*>(std::aligned_alloc(kVectorBytes, bytes));
  if (!p) std::abort();
  __builtin_memset(p, 0, bytes);
  return Buffer<T>(p);
}

template <class T>
constexpr int64_t padded(int64_t count) {
  return (count + kLanes<T> - 1) / kLanes<T> * kLanes<T>;
}

// c[r][:] += sum over k of a[r][k] b[k][:], R rows, V vectors wide.
template <class T, int R, int V>
void multiply_add(const T* a, int64_t a_row, const T* b, int64_t depth, T* c, int64_t c_row) {
  Vector<T> sum[R][V];
#pragma GCC unroll 8
  for (int r = 0; r < R; r++)
#pragma GCC unroll 4
    for (int v = 0; v < V; v++) sum[r][v] = load(c + r * c_row + v * kLanes<T>);
  for (int64_t k = 0; k < depth; k++, b += V * kLanes<T>) {
    Vector<T> column[V];
#pragma GCC unroll 4
    for (int v = 0; v < V; v++) column[v] = load(b + v * kLanes<T>);
#pragma GCC unroll 8
    for (int r = 0; r < R; r++)
#pragma GCC unroll 4
      for (int v = 0; v < V; v++) sum[r][v] += column[v] * a[r * a_row + k];
  }
#pragma GCC unroll 8
  for (int r = 0; r < R; r++)
#pragma GCC unroll 4
    for (int v = 0; v < V; v++) store(c + r * c_row + v * kLanes<T>, sum[r][v]);
}

template <class T, int V>
void multiply_rows(int64_t rows, const T* a, int64_t a_row, const T* b, int64_t depth, T* c,
                   int64_t c_row) {
  switch (rows) {
    case 1: return multiply_add<T, 1, V>(a, a_row, b, depth, c, c_row);
    case 2: return multiply_add<T, 2, V>(a, a_row, b, depth, c, c_row);
    case 3: return multiply_add<T, 3, V>(a, a_row, b, depth, c, c_row);
    case 4: return multiply_add<T, 4, V>(a, a_row, b, depth, c, c_row);
    case 5: return multiply_add<T, 5, V>(a, a_row, b, depth, c, c_row);
    case 6: return multiply_add<T, 6, V>(a, a_row, b, depth, c, c_row);
  }
}

// sum[b] grows, lane by lane, by the dot product of `row` with weights[b], B rows that lie `apart`.
template <class T, int B>
void add_dot_products(const T* row, const T* weights, int64_t apart, int64_t count,
                  Vector<T>* sum) {
  int64_t j = 0;
  for (; j + kLanes<T> <= count; j += kLanes<T>) {
    const Vector<T> along = load(row + j);
#pragma GCC unroll 4
    for (int b = 0; b < B; b++) sum[b] += along * load(weights + b * apart + j);
  }
  if (j < count) {
    const Vector<T> along = load(row + j);
#pragma GCC unroll 4
    for (int b = 0; b < B; b++) sum[b] += along * load_some<T>(weights + b * apart + j, count - j);
  }
}

// A matrix of `depth` rows, zero where no block was set. Columns are padded to whole vectors.
// Where so few rows will be multiplied that packing costs more than it saves, blocks whose columns
// are contiguous may be left where they lie.
template <class T>
class Packed {
 public:
  Packed() = default;
  Packed(int64_t depth, int64_t columns, bool in_place = false)
      : depth_(depth), columns_(padded<T>(columns)), in_place_(in_place),
        data_(in_place ? nullptr : zeros<T>(depth * columns_)) {}

  // Sets the block from (k, column) on; `row` and `step` are the strides of its rows and columns.
  void set(int64_t k, int64_t column, const T* block, int64_t rows, int64_t columns,
           int64_t row, int64_t step) {
    if (in_place_) {
      blocks_.push_back({k, column, rows, columns, step, block, &multiply_in_place});
      return;
    }
    for (int64_t c = 0; c < columns; c++) {
      const int64_t panel = (column + c) / kWidth * kWidth, width = width_at(panel);
      T* to = &data_[panel * depth_ + k * width + column + c - panel];
      const T* from = block + c * step;
      for (int64_t r = 0; r < rows; r++) to[r * width] = from[r * row];
    }
  }

  // c += a times the matrix, for `rows` rows; a row of c has room for the padding.
  void add_product(int64_t rows, const T* a, int64_t a_row, T* c, int64_t c_row) const {
    if (depth_ == 0) return;
    for (const Block& block : blocks_)
      for (int64_t r = 0; r < rows; r++)
        block.multiply(block, a + r * a_row + block.k, c + r * c_row + block.column);
    if (in_place_) return;
    const int64_t blocks = (rows + kRowBlock - 1) / kRowBlock;
    const int64_t block = blocks ? (rows + blocks - 1) / blocks : 0;
    for (int64_t panel = 0; panel < columns_; panel += kWidth) {
      const T* b = &data_[panel * depth_];
      for (int64_t r = 0; r < rows; r += block) {
        const int64_t count = rows - r < block ? rows - r : block;
        const T* from = a + r * a_row;
        T* to = c + r * c_row + panel;
        switch (width_at(panel) / kLanes<T>) {
          case 1: multiply_rows<T, 1>(count, from, a_row, b, depth_, to, c_row); break;
          case 2: multiply_rows<T, 2>(count, from, a_row, b, depth_, to, c_row); break;
          case 3: multiply_rows<T, 3>(count, from, a_row, b, depth_, to, c_row); break;
          case 4: multiply_rows<T, 4>(count, from, a_row, b, depth_, to, c_row); break;
        }
      }
    }
  }

  int64_t bytes() const { return depth_ * columns_ * int64_t(sizeof(T)); }

 private:
  static constexpr int64_t kWidth = kPanelVectors * kLanes<T>;
  int64_t width_at(int64_t panel) const {
    return columns_ - panel < kWidth ? columns_ - panel : kWidth;
  }

  struct Block {
    int64_t k, column, rows, columns, step;
    const void* data;
    void (*multiply)(const Block& block, const T* a, T* c);
  };
  static void multiply_in_place(const Block& block, const T* a, T* c) {
    const T* b = static_cast<const T*>(block.data);
    for (int64_t j = 0; j < block.columns; j += 4) {
      const int64_t count = block.columns - j < 4 ? block.columns - j : 4;
      Vector<T> sum[4] = {};
      if (count == 4)
        add_dot_products<T, 4>(a, b + j * block.step, block.step, block.rows, sum);
      else
        for (int64_t i = 0; i < count; i++)
          add_dot_products<T, 1>(a, b + (j + i) * block.step, 0, block.rows, sum + i);
      for (int64_t i = 0; i < count; i++) c[j + i] += sum_of<T>(sum[i]);
    }
  }

  int64_t depth_ = 0, columns_ = 0;
  bool in_place_ = false;
  std::vector<Block> blocks_;
  Buffer<T> data_;
};

}  // namespace longrnn
