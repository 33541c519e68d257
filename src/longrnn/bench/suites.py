"""Run a suite: its cases one by one, each result written as soon as it is there."""

import warnings
from collections.abc import Callable, Container
from pathlib import Path
from typing import Any

import torch

from longrnn import _checks
from longrnn.bench import (
    block,
    compose,
    layers,
    machine,
    mux,
    newton,
    phased,
    recurrence,
    results,
    skip,
    streaming,
)
from longrnn.bench.contender import present
from longrnn.bench.measure import Budget
from longrnn.bench.results import Row

_MODULES: dict[str, Any] = {
    "recurrence": recurrence,
    "layers": layers,
    "streaming": streaming,
    "skip": skip,
    "phased": phased,
    "block": block,
    "compose": compose,
    "newton": newton,
    "mux": mux,
}
SUITES = list(_MODULES)


def run_suite(
    suite: str,
    folder: str | Path = "benchmarks/results",
    *,
    device: str = "cpu",
    only: str = "",
    seconds: float = 20.0,
    cap: float = 5.0,
    skip: Container[str] = (),
    on_rows: Callable[[list[Row]], None] = lambda rows: None,
    on_step: Callable[[str], object] = lambda words: None,
) -> Path:
    """Measure a suite and append its rows to a file of JSON lines.

    Args:
        suite: One of `SUITES`.
        folder: Where the file is kept, `<suite>-<device>-<date>.jsonl`.
        device: "cpu" or "cuda".
        only: Measure only cases whose group or name contains this.
        seconds: How long each case may take, in each pass, over all its contenders.
        cap: Longest call, in seconds, that is timed.
        skip: Names of cases that are not measured.
        on_rows: Called with the rows of each case and pass as soon as they are measured, and
            first with those of the absent contenders.
        on_step: Called with what is done next, in words.

    Returns:
        The file.

    Raises:
        ValueError: If `suite`, `device` or `only` names nothing, or a time is not positive.
    """
    _checks.check_choice("suite", suite, SUITES)
    _checks.check_choice("device", device, ("cpu", "cuda"))
    if device == "cuda" and not torch.cuda.is_available():
        raise ValueError("device must be cpu: torch sees no GPU here, got 'cuda'")
    for name, value in (("seconds", seconds), ("cap", cap)):
        if not value > 0:
            raise ValueError(f"{name} must be positive, got {value}")
    module = _MODULES[suite]
    cases = [c for c in module.cases(device) if only in c.group or only in str(c)]
    if not cases:
        names = ", ".join(dict.fromkeys(c.group for c in module.cases(device)))
        raise ValueError(f"only must be part of a case's group ({names}) or name, got {only!r}")

    here = machine.describe(device)
    path = results.results_path(folder, suite, device, here["date"])

    def keep(rows: list[Row]) -> None:
        results.write(path, ({**row, **here} for row in rows))
        on_rows(rows)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # peers warn about what they lack
        runners, absent = present(module.contenders(device))
        keep([{"suite": suite, "case": "", "status": "absent", **row} for row in absent])
        limits = {
            "bandwidth": machine.bandwidth(device),
            "multiply_adds": machine.multiply_adds(device),
        }
        here["bandwidth_gb_per_s"] = limits["bandwidth"] / 1e9
        here["multiply_adds_per_s"] = limits["multiply_adds"]
        for case in (c for c in cases if str(c) not in skip):

            def tell(words: str, case: Any = case) -> None:
                on_step(f"{case}: {words}")

            budget = Budget(seconds, cap, tell)
            for rows in module.measure(case, runners, budget, device, limits):
                keep(rows)
    return path
