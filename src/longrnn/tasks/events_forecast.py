"""Where will the event be that comes 50 events from now?"""

import functools

import numpy as np
import torch
from torch import Tensor, nn

from longrnn.tasks.events import PIXELS, SYMBOLS, Recordings, find_recordings, milliseconds, symbols
from longrnn.tasks.task import Drawn, Task, check_length
from longrnn.tasks.timed import NO_TARGET, pad_timed

AHEAD = 50
BURN_IN = 30
MEAN_EVENTS = 4096
"""About the number of events in a recording of N-MNIST."""
TOP = 20

Piece = tuple[Tensor, Tensor]


class EventsForecast(Task):
    """Say at each event in which pixel the event 50 later will be.

    A sequence is a random stretch of a random recording. The answer is two distributions over
    34 x 34 pixels, one for each polarity that the later event may have; only that of its true
    polarity is judged. The first 30 events are not judged. The score is how often the true pixel
    is among the 20 likeliest; the loss is the cross-entropy.

    Args:
        batch_size: Sequences drawn together; an epoch is about as many events as are there, and
            as many stretches are held out as recordings.
        seed: Which stretches are drawn.
        data: As in the task nmnist.
        length: Events of a stretch; recordings with fewer are padded.

    Reference:
        Martin and Cundy, "Parallelizing Linear Recurrent Neural Nets Over Sequence Length",
        version 1, 2017, https://arxiv.org/abs/1709.04057v1, section 4.
    """

    vocabulary = SYMBOLS
    embedding_size = 40
    output_size = SYMBOLS
    every_step = True
    timed = True
    time_scale = 0.1
    collate = staticmethod(pad_timed)
    score_name = f"top-{TOP} accuracy"

    def __init__(
        self, batch_size: int, seed: int = 0, *, data: str | None = None, length: int = 1024
    ):
        check_length(length, BURN_IN + 1)
        self.length = length
        train, test, self.note = find_recordings(data, AHEAD + BURN_IN + 1)
        samples = len(train.labels) * max(1, round(MEAN_EVENTS / length))
        draw = functools.partial(self._draw, train)
        self.train_set = Drawn(draw, samples, seed, 0, batch_size)
        draw = functools.partial(self._draw, test)
        self.test_set = Drawn(draw, len(test.labels), seed, 1, batch_size)

    def _draw(
        self, found: Recordings, rng: np.random.Generator, count: int
    ) -> tuple[list[Piece], list[Tensor]]:
        inputs, targets = [], []
        for index in rng.integers(len(found.labels), size=count):
            events = found[index]
            start = rng.integers(max(1, len(events.times) - self.length - AHEAD + 1))
            stretch = slice(start, start + self.length + AHEAD)
            values, times = symbols(events)[stretch], milliseconds(events)[stretch]
            inputs.append((values[:-AHEAD], times[:-AHEAD]))
            targets.append(values[AHEAD:].index_fill(0, torch.arange(BURN_IN), NO_TARGET))
        return inputs, targets

    def loss(self, output: Tensor, target: Tensor) -> Tensor:
        """The cross-entropy of the later event's pixel, its polarity given."""
        return nn.functional.cross_entropy(*_judged(output, target))

    def score(self, output: Tensor, target: Tensor) -> Tensor:
        """How often the true pixel is among the 20 likeliest."""
        return self.top(output, target, TOP)

    def top(self, output: Tensor, target: Tensor, count: int) -> Tensor:
        """How often the true pixel is among the `count` likeliest."""
        logits, pixels = _judged(output, target)
        return (logits.topk(count).indices == pixels.unsqueeze(-1)).any(-1).float().mean()


def _judged(output: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Logits (N, pixels) for the true polarity, and the true pixel (N,), where one is asked."""
    asked = target != NO_TARGET
    polarity, pixels = target[asked] // PIXELS, target[asked] % PIXELS
    both = output[asked].unflatten(-1, (2, PIXELS))
    return both[torch.arange(len(both), device=both.device), polarity], pixels
