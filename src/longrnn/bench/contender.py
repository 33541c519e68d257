"""What a suite times: contenders, some of them other people's packages."""

import importlib.metadata
import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor


class Unsupported(Exception):
    """Raised by a contender that cannot do a case, with the reason."""


class Run(NamedTuple):
    """One contender, ready to be timed on one case.

    Attributes:
        call: Does the work, into fresh memory.
        check: Tells how far off that work is, as `relative_error` does; None where there is
            nothing to be right about.
    """

    call: Callable[[], Any]
    check: Callable[[], float] | None


@dataclass(frozen=True)
class Contender:
    """One way to do the work of a suite.

    Attributes:
        name: What tables and plots call it.
        prepare: Takes a suite's case and readies a `Run`; untimed. Imports a peer's package.
        kind: "ours", "peer", or "baseline": work to compare with that computes something else.
        module: The module that must be importable, for a peer from another package.
        package: What pip calls that package.
        layout: The layout of the tensors it is handed, where that is its own choice.
        probe: Time it on a short sequence first, because on a long one it may take minutes.
    """

    name: str
    prepare: Callable[[Any], Run]
    kind: str = "peer"
    module: str = "torch"
    package: str = "torch"
    layout: str = "(B, T, D)"
    probe: bool = False

    @property
    def absent(self) -> bool:
        """Whether its package is missing here."""
        return importlib.util.find_spec(self.module.partition(".")[0]) is None

    @property
    def version(self) -> str:
        """The installed version of its package, or nothing."""
        try:
            return importlib.metadata.version(self.package)
        except importlib.metadata.PackageNotFoundError:
            return ""


def relative_error(results: dict[str, Tensor], exact: dict[str, Tensor]) -> float:
    """The largest error among named results, each relative to its largest exact value.

    NaN where a result holds one.

    Raises:
        RuntimeError: If a result is missing or has another shape.
    """
    if results.keys() != exact.keys():
        raise RuntimeError(f"expected {sorted(exact)}, got {sorted(results)}")
    errors = []
    for name, right in exact.items():
        result = results[name].detach()
        if result.shape != right.shape:
            raise RuntimeError(
                f"{name} must have shape {tuple(right.shape)}, got {tuple(result.shape)}"
            )
        scale = right.abs().max().clamp(min=1e-30)
        errors.append((result.to(right) - right).abs().max() / scale)
    return torch.stack(errors).max().item()


def present(contenders: list[Contender]) -> tuple[list[Contender], list[dict[str, str]]]:
    """Sort out the absent: the contenders that are here, and a row for each that is not."""
    here = [c for c in contenders if not c.absent]
    return here, [
        {
            "contender": c.name,
            "kind": c.kind,
            "note": f"absent: {c.name} (pip install {c.package})",
        }
        for c in contenders
        if c.absent
    ]
