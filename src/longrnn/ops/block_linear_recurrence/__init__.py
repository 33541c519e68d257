"""The linear recurrence with n x n transitions; start reading at `op.py`."""
