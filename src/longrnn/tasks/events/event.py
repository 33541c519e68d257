"""What an event camera saw."""

from typing import NamedTuple

import numpy as np


class Events(NamedTuple):
    """The events of one recording in the order in which they came, each member (T,)."""

    times: np.ndarray
    """Time stamps, float64, in the recording's unit; microseconds in N-MNIST."""
    x: np.ndarray
    """Column of the pixel, from the left."""
    y: np.ndarray
    """Row of the pixel, from the top."""
    polarity: np.ndarray
    """1 where the pixel grew brighter, 0 where darker."""
