"""What is computed: functions of tensors, and nothing that is learned."""

from longrnn.ops.linear_recurrence.op import linear_recurrence

__all__ = ["linear_recurrence"]
