"""What is computed: functions of tensors, and nothing that is learned."""

from longrnn.ops.binarize import binarize
from longrnn.ops.block_linear_recurrence.op import block_linear_recurrence
from longrnn.ops.budget_loss import budget_loss
from longrnn.ops.linear_recurrence.op import linear_recurrence
from longrnn.ops.solve_recurrence.op import solve_recurrence
from longrnn.ops.time_gate.op import time_gate

__all__ = [
    "binarize",
    "block_linear_recurrence",
    "budget_loss",
    "linear_recurrence",
    "solve_recurrence",
    "time_gate",
]
