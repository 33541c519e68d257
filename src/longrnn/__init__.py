"""Recurrent networks for long and event-based sequences."""

from longrnn.ops import linear_recurrence

__version__ = "0.1.0"
__all__ = ["linear_recurrence"]
