"""Published experiments, to be run again: each is a module with an `EXPERIMENT`, and a line here.

>>> sorted(EXPERIMENTS)[:2]
['skip-adding', 'skip-digits']
"""

from longrnn.experiments import skip_adding, skip_digits, skip_frequency
from longrnn.experiments.experiment import Case, Column, Experiment
from longrnn.experiments.run import reproduce
from longrnn.experiments.table import table

EXPERIMENTS: dict[str, Experiment] = {
    module.EXPERIMENT.name: module.EXPERIMENT
    for module in (
        skip_adding,
        skip_frequency,
        skip_digits,
    )
}

__all__ = ["EXPERIMENTS", "Case", "Column", "Experiment", "reproduce", "table"]
