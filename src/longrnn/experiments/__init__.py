"""Published experiments, to be run again: each is a module with an `EXPERIMENT`, and a line here.

>>> sorted(EXPERIMENTS)[:2]
['phased-digits', 'phased-frequency']
"""

from longrnn.experiments import (
    phased_digits,
    phased_frequency,
    phased_nmnist,
    skip_adding,
    skip_digits,
    skip_frequency,
)
from longrnn.experiments.experiment import Case, Column, Experiment
from longrnn.experiments.run import reproduce
from longrnn.experiments.table import table

EXPERIMENTS: dict[str, Experiment] = {
    module.EXPERIMENT.name: module.EXPERIMENT
    for module in (
        skip_adding,
        skip_frequency,
        skip_digits,
        phased_frequency,
        phased_digits,
        phased_nmnist,
    )
}

__all__ = ["EXPERIMENTS", "Case", "Column", "Experiment", "reproduce", "table"]
