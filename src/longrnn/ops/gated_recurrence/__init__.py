"""Gates, linear recurrence and output of a layer in one pass; start reading at `op.py`."""
