"""Functions of numbers in the GPU kernels, and how they load and store them."""

import triton
import triton.language as tl


@triton.jit
def sigmoids(x):
    """sigmoid(x) and sigmoid(-x), neither by cancellation, from one exponential."""
    e = tl.exp(-tl.abs(x))
    large = 1.0 / (1.0 + e)
    small = e * large
    return tl.where(x >= 0, large, small), tl.where(x >= 0, small, large)


@triton.jit
def tanh(x):
    """Exact to a few roundings, as `tl.exp` is."""
    # Below 1/2 by the continued fraction to its seventh term, exact to a rounding: 1 - e cancels.
    e = tl.exp(-2.0 * tl.abs(x))
    y = x * x
    near = tl.abs(x) < 0.5
    top = x * (135135.0 + y * (17325.0 + y * (378.0 + y)))
    bottom = 135135.0 + y * (62370.0 + y * (3150.0 + y * 28.0))
    far = tl.where(x >= 0, 1.0 - e, e - 1.0)
    return tl.where(near, top, far) / tl.where(near, bottom, 1.0 + e)


@triton.jit
def load_real(ptr, offset, mask, CARRY: tl.constexpr):
    """Load in the dtype in which the state is carried; 0 where masked."""
    return tl.load(ptr + offset, mask=mask, other=0.0).to(CARRY)


@triton.jit
def store_real(ptr, offset, x, mask):
    """Round to the dtype of the memory, once."""
    tl.store(ptr + offset, x.to(ptr.dtype.element_ty), mask=mask)
