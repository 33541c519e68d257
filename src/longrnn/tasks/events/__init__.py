"""Event-camera recordings: their files, folders of them, and events made from images.

>>> import numpy as np
>>> events = make_events(np.eye(28) * 255)
>>> seconds = events.times / 1e6
>>> float(seconds.max().round(1)), float(events.polarity.mean().round(1))
(0.3, 0.5)
"""

from longrnn.tasks.events.address import PIXELS, SYMBOLS, milliseconds, symbols
from longrnn.tasks.events.event import Events
from longrnn.tasks.events.files import read_binary, read_events, read_text
from longrnn.tasks.events.recordings import Recordings, find_recordings
from longrnn.tasks.events.saccades import SIDE, make_events

__all__ = [
    "PIXELS",
    "SIDE",
    "SYMBOLS",
    "Events",
    "Recordings",
    "find_recordings",
    "make_events",
    "milliseconds",
    "read_binary",
    "read_events",
    "read_text",
    "symbols",
]
