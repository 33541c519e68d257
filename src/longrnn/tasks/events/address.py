"""Events as symbols: a pixel's address and a polarity are one of 2 x 34 x 34."""

import torch
from torch import Tensor

from longrnn.tasks.events.event import Events
from longrnn.tasks.events.saccades import SIDE

PIXELS = SIDE * SIDE
SYMBOLS = 2 * PIXELS


def symbols(events: Events) -> Tensor:
    """What each event is: polarity * 1156 + y * 34 + x."""
    return torch.from_numpy(events.polarity * PIXELS + events.y * SIDE + events.x)


def milliseconds(events: Events) -> Tensor:
    """When each event came, of a recording whose unit is a microsecond; float64."""
    return torch.from_numpy(events.times / 1000)
