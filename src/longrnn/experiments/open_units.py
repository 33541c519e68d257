"""Which units of a phased layer are open, by its clock: counted, and drawn as a raster."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from longrnn.experiments.experiment import Line
from longrnn.nn.clocked_stack import hold
from longrnn.nn.phased_stack import PhasedStack
from longrnn.ops import time_gate
from longrnn.train import load_network


@torch.no_grad()
def open_units(layer: Any, times: Tensor) -> Tensor:
    """Whether units of the first layer are open in evaluation.

    Shape:
        - times: (...)
        - returns: (..., n)

    Example:
        >>> from longrnn.nn import PhasedLSTM
        >>> layer = PhasedLSTM(1, 4, period_init=(10, 20), on_ratio=0.5)
        >>> f"{open_units(layer, torch.arange(1e5)).double().mean():.2f}"
        '0.50'
    """
    period, shift, on_ratio = layer.log_period_l0.exp(), layer.shift_l0, layer.on_ratio_l0
    on_ratio = hold(on_ratio) if layer.learn_on_ratio else on_ratio
    return time_gate(times, period, shift, on_ratio, 0.0) > 0


def updates_per_unit(folder: Path) -> Line:
    """How often a mean unit is updated in a mean held-out sequence: at each step, if not phased."""
    network, task = load_network(folder)
    layer, sequences = network.recurrent, len(task.test_set)  # type: ignore[arg-type]
    total = 0.0
    for index in range(sequences):
        (_, times), _ = task.test_set[index]
        is_phased = isinstance(layer, PhasedStack)
        updates = open_units(layer, times).double().mean(1) if is_phased else torch.ones(len(times))
        total += updates.sum().item()
    return {"updates_per_unit": total / sequences}


def draw_open(axes: Any, layer: Any, times: Tensor) -> None:
    """Draw when units are open, a row a unit, in the order in which they open."""
    order = layer.shift_l0.remainder(layer.log_period_l0.exp()).argsort()
    steps, units = open_units(layer, times)[:, order].nonzero(as_tuple=True)
    axes.plot(times[steps], units, "s", markersize=1, color="tab:red")
    axes.set(ylim=(-1, layer.hidden_size), ylabel="unit")
