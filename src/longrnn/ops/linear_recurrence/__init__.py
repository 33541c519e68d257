"""The elementwise linear recurrence; start reading at `op.py`."""
