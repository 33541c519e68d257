"""A module's calls on a CPU: as they are, or compiled for each bucket."""

import logging
from collections.abc import Callable, Hashable
from typing import Any

import torch
from torch import nn

from longrnn.batching import trial
from longrnn.batching.recorded import Call, Kept, key_of, untouched

_log = logging.getLogger(__name__)


class CompiledCalls:
    """Calls that run as they are or compiled for their shapes, whichever is faster.

    Args:
        module: What is called.
        call: Calls it, with tensors and trees of them.
        most: Tells how many compiled calls are kept.
        compile: Whether to compile; None leaves it to a trial at the first call with gradients,
            and another at the first without.
    """

    def __init__(
        self, module: nn.Module, call: Call, most: Callable[[], int], compile: bool | None
    ):
        self._module, self._call, self._compile = module, call, compile
        self._kept = Kept(most)
        self._verdicts: dict[bool, trial.Verdict] = {}

    def wants_static(
        self, args: Callable[[], tuple[Any, ...]], static_args: Callable[[], tuple[Any, ...]]
    ) -> bool:
        """Whether calls must have the shape of their bucket, because they are compiled for it.

        Args:
            args: Makes the arguments of a call as it is.
            static_args: Makes those of a compiled one.
        """
        if self._compile is not None:
            return self._compile
        gradients = torch.is_grad_enabled()
        if gradients not in self._verdicts:
            compiled, given = trial.compile_call(self._call), static_args()
            verdict = trial.compare(self._call, args(), compiled, given, self._module)
            self._verdicts[gradients] = verdict
            _log.info("MuxUnroll runs %s", verdict.why)
            if verdict.compiled:
                self._kept.get_or_make(self._key(given), lambda: compiled)
        return self._verdicts[gradients].compiled

    def run(self, args: tuple[Any, ...]) -> Any:
        """Do `call(*args)` compiled for its shapes."""
        return self._kept.get_or_make(self._key(args), lambda: self._compiled(args))(*args)

    def report(self) -> dict[str, Any]:
        """What `MuxUnroll.stats` says of the way calls run."""
        names = {True: "with gradients", False: "without"}
        way = "; ".join(f"{names[g]} {verdict.why}" for g, verdict in self._verdicts.items())
        asked = {True: "compiled", False: "sliced", None: "not yet chosen"}[self._compile]
        return {
            "way": way or asked,
            "graphs": len(self._kept),
            "evicted": self._kept.evicted,
            "not_recorded": 0,
            "memory_bytes": 0,
        }

    def _key(self, args: tuple[Any, ...]) -> Hashable:
        return self._module.training, key_of(args)

    def _compiled(self, args: tuple[Any, ...]) -> Call:
        # A longer bucket may be too much for the compiler where a shorter one was not.
        with untouched(self._module):
            count = trial.operations(self._call, args)
        few = self._compile or count <= trial.MOST_OPERATIONS
        return trial.compile_call(self._call) if few else self._call
