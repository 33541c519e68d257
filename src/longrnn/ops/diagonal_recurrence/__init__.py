"""Non-linear cells whose units see their own state only; start reading at `op.py`."""
