"""Next-byte prediction on a text, read from beginning to end."""

import math
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from longrnn.tasks.task import Task, check_length


class Text(Task):
    """Predict each byte from all before it; the score is bits per byte, lower is better.

    The text is cut into `batch_size` rows of equal length, and a batch is the next `length`
    bytes of each row: the state goes on from one batch to the next. The first nine tenths of the
    text are learned from, the rest is held out.

    Args:
        batch_size: Rows.
        seed: Not used: nothing is drawn.
        length: Bytes of a row in a batch.
        data: A file to read; the prose of Python's own manual if None.
    """

    vocabulary = 256
    output_size = 256
    every_step = True
    carries_state = True
    score_name = "bits/byte"
    higher_is_better = False

    def __init__(
        self, batch_size: int, seed: int = 0, *, length: int = 256, data: str | None = None
    ):
        check_length(length, 1)
        text = _read(data)
        split = len(text) * 9 // 10
        source = data or "the default text"
        self.train_set = Rows(text[:split], batch_size, length, source)
        self.test_set = Rows(text[split:], batch_size, length, source)

    def score(self, output: Tensor, target: Tensor) -> Tensor:
        """The cross-entropy in bits."""
        return self.loss(output, target) / math.log(2)


class Rows(Dataset):
    """A text cut into rows; samples i * rows, ..., i * rows + rows - 1 are piece i of every row."""

    def __init__(self, text: Tensor, rows: int, length: int, source: str):
        self.text, self.rows, self.length = text, rows, length
        self.row_length = (len(text) - 1) // rows
        if self.row_length < length:
            raise ValueError(
                f"data must hold at least batch_size * length = {rows * length} bytes after the "
                f"split into training and held-out text, got {len(text)} of {source}"
            )

    def __len__(self) -> int:
        return self.row_length // self.length * self.rows

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        piece, row = divmod(index, self.rows)
        start = row * self.row_length + piece * self.length
        window = self.text[start : start + self.length + 1].long()
        return window[:-1], window[1:]


def _read(data: str | None) -> Tensor:
    """The text's bytes."""
    if data is None:
        from pydoc_data.topics import topics

        content = "\n".join(topics.values()).encode()
    elif Path(data).is_file():
        content = Path(data).read_bytes()
    else:
        raise ValueError(f"data must be a text file, got {data}")
    return torch.from_numpy(np.frombuffer(content, dtype=np.uint8).copy())
