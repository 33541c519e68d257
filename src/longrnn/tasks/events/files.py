"""Recordings in files: N-MNIST's binary format, and text with a line an event."""

from pathlib import Path

import numpy as np

from longrnn.tasks.events.event import Events

COLUMNS = ("t", "x", "y", "p")
EVENT_BYTES = 5
OVERFLOW_ROW = 240
OVERFLOW_TIME = 1 << 13


def read_events(path: Path) -> Events:
    """Read a recording: `.bin` as N-MNIST has it, `.csv` or `.txt` with a line an event.

    Raises:
        ValueError: If the file is not such a recording; the message names it.
    """
    if path.suffix not in READERS:
        raise ValueError(f"{path} must end in one of {', '.join(READERS)}")
    return READERS[path.suffix](path)


def read_binary(path: Path) -> Events:
    """Read the format of N-MNIST: five bytes an event.

    They are x, y, and then, big-endian, one bit of polarity and 23 of microseconds. An event in
    row 240 is none: it says that the clock of those after it is 2^13 microseconds further on.

    Reference:
        Orchard et al., 2015, https://doi.org/10.3389/fnins.2015.00437.
    """
    content = path.read_bytes()
    if len(content) % EVENT_BYTES:
        raise ValueError(
            f"{path} must hold {EVENT_BYTES} bytes an event, got {len(content)} bytes: "
            "it is truncated or damaged"
        )
    return decode(content)


def decode(content: bytes) -> Events:
    """The events in whole bytes of the format of N-MNIST, see `read_binary`."""
    x, y, *stamp = np.frombuffer(content, np.uint8).reshape(-1, EVENT_BYTES).T.astype(np.int64)
    times = (stamp[0] & 0x7F) << 16 | stamp[1] << 8 | stamp[2]
    overflow = y == OVERFLOW_ROW
    times += OVERFLOW_TIME * overflow.cumsum()
    kept = ~overflow
    return Events(times[kept].astype(float), x[kept], y[kept], stamp[0][kept] >> 7)


def encode(events: Events) -> bytes:
    """The bytes that `decode` reads; time stamps are whole and below 2^23."""
    times = events.times.astype(np.int64)
    stamp = [events.polarity << 7 | times >> 16, times >> 8 & 0xFF, times & 0xFF]
    return np.stack([events.x, events.y, *stamp], 1).astype(np.uint8).tobytes()


def read_text(path: Path) -> Events:
    """Read lines of `t,x,y,p`, or of the same four numbers with blanks between them.

    A first line may name the columns, in any order then. Lines that are empty or begin with # are
    passed over. Polarities are 0 and 1, or -1 and 1.
    """
    names: list[str] = list(COLUMNS)
    rows: list[list[float]] = []
    for number, line in enumerate(_lines(path), 1):
        fields = line.partition("#")[0].replace(",", " ").split()
        if not rows and sorted(fields) == sorted(COLUMNS):
            names = fields
        elif fields:
            rows.append(_numbers(fields, f"{path}, line {number},"))
    columns = np.array(rows).reshape(-1, 4).T
    times, x, y, polarity = (columns[names.index(name)] for name in COLUMNS)
    wrong = ~np.isfinite(times) | (x % 1 != 0) | (x < 0) | (y % 1 != 0) | (y < 0)
    wrong |= ~np.isin(polarity, (-1, 0, 1))
    if wrong.any():
        first = np.flatnonzero(wrong)[0]
        got = ", ".join(f"{v:g}" for v in (times[first], x[first], y[first], polarity[first]))
        raise ValueError(
            f"{path} must hold finite t, whole x and y of at least 0, and p in -1, 0, 1; "
            f"got t, x, y, p = {got} in event {first + 1}"
        )
    return Events(times, x.astype(np.int64), y.astype(np.int64), (polarity > 0).astype(np.int64))


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} must be a text file, got other bytes: {error}") from error


def _numbers(fields: list[str], where: str) -> list[float]:
    try:
        numbers = [float(field) for field in fields]
    except ValueError:
        numbers = []
    if len(numbers) != len(COLUMNS):
        raise ValueError(f"{where} must be four numbers t,x,y,p, got {','.join(fields)!r}")
    return numbers


READERS = {".bin": read_binary, ".csv": read_text, ".txt": read_text}
