import dataclasses

import pytest
import torch

from longrnn.experiments import Case, Column, Experiment, reproduce

TINY = Experiment(
    name="tiny",
    summary="Nothing much",
    reference="Nobody, 2018",
    task="adding",
    settings={"hidden_size": 4, "batch_size": 4, "lr": 1e-2, "schedule": "none", "device": "cpu"},
    minutes=0.005,
    columns=(
        Column("MSE", lambda line: line["test_score"], "{:.2f}".format),
        Column("MAC", lambda line: line["test_macs"]),
    ),
    cases=(
        Case("skip", "Skip GRU", "skip-gru", ("0.10 ± 0.02", "90"), {"cost_per_sample": 1e-3}),
        Case("plain", "SRU", "sru", ("0.20", "")),
        Case("short", "GRU, 9 steps", "gru", ("0.30", "80"), task_options={"length": 9}),
    ),
)


@pytest.fixture
def experiment():
    return TINY


@pytest.fixture
def rerun(tmp_path):
    """Reproduce the tiny experiment, or one that differs from it."""
    torch.set_num_threads(1)

    def run(changes=None, **options):
        return reproduce(dataclasses.replace(TINY, **(changes or {})), tmp_path, **options)

    return run
