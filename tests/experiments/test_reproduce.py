import dataclasses
import json

import pytest
from torch import nn

from longrnn.experiments import EXPERIMENTS, Case, experiment, results, run, table
from longrnn.experiments.skipping import settled
from longrnn.nn import create_model, models
from longrnn.nn.registry import also_known
from longrnn.train import create_settings, load_network
from longrnn.train.counting import macs_per_sequence


def trained(monkeypatch):
    """Note each run that is trained, as (model, seed, learning rate)."""
    seen = []
    train = run.train

    def noted(settings, *args):
        seen.append((settings.model, settings.seed, settings.lr))
        return train(settings, *args)

    monkeypatch.setattr(run, "train", noted)
    return seen


def test_each_case_leaves_a_line_and_its_run(rerun, tmp_path):
    done = rerun()
    assert done.path == tmp_path / "reproduce-tiny.jsonl"
    assert [line["case"] for line in done.lines] == ["skip", "plain", "short"]
    assert done.lines == [json.loads(line) for line in done.path.read_text().splitlines()]
    assert [line["test_macs"] is None for line in done.lines] == [False, True, False]
    lengths = [line["settings"]["task_options"] for line in done.lines]
    assert lengths == [{}, {}, {"length": 9}]
    assert len(list((tmp_path / "tiny").glob("*/summary.json"))) == 3


def test_a_case_is_chosen_by_its_name_or_a_part_of_it(rerun):
    cases = (Case("gru", "GRU", "gru", ("", "")), Case("gru-2", "GRU", "gru", ("", "")))
    chosen = [[x["case"] for x in rerun({"cases": cases}, only=o).lines] for o in ("gru", "ru")]
    assert chosen == [["gru"], ["gru", "gru-2"]]


def test_what_is_finished_is_not_run_again(rerun, monkeypatch):
    first = rerun()
    seen = trained(monkeypatch)
    assert rerun().lines == first.lines
    assert seen == []
    assert len(rerun(seeds=2, only="plain").lines) == 2
    assert seen == [("sru", 1, 1e-2)]


def test_a_greater_budget_prolongs_a_run_and_replaces_its_line(rerun, monkeypatch):
    (first,) = rerun(only="plain").lines
    seen = trained(monkeypatch)
    done = rerun(only="plain", minutes=0.01)
    (second,) = done.lines
    assert len(seen) == 1
    assert second["steps"] > first["steps"]
    assert len(results.read(done.path)) == 1
    assert rerun(only="plain").lines == [second]


def test_a_run_that_has_shown_all_needs_no_greater_budget(rerun, monkeypatch):
    changes = {"shown": lambda case, evaluations: len(evaluations) == 2, "minutes": 1.0}
    (line,) = rerun(changes, only="plain").lines
    assert (line["epochs"], line["shown"]) == (2, True)
    seen = trained(monkeypatch)
    assert rerun(changes, only="plain", minutes=2.0).lines == [line]
    assert seen == []


def test_a_run_killed_before_its_line_was_written_is_tested_again(rerun, monkeypatch):
    changes = {"shown": lambda case, evaluations: len(evaluations) == 2, "minutes": 1.0}
    first = rerun(changes, only="plain")
    first.path.unlink()
    (line,) = rerun(changes, only="plain").lines
    assert line["steps"] == first.lines[0]["steps"]
    assert line["test_loss"] == first.lines[0]["test_loss"]


def test_a_stopped_run_has_no_line_and_goes_on(rerun, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr("longrnn.train.run.StopSignal.__enter__", raised)
        done = rerun(minutes=1.0)
    assert (done.lines, done.stopped) == ([], True)
    seen = trained(monkeypatch)
    done = rerun(only="skip")
    assert not done.stopped
    (line,) = done.lines
    assert seen == [("skip-gru", 0, 1e-2)]
    assert line["steps"] > 1


def raised(self):
    self.raised = True
    return self


def test_quick_runs_are_kept_apart(rerun, experiment):
    rerun(only="plain")
    done = rerun({"quick": {"lr": 0.5}}, only="plain", quick=True)
    assert [line["settings"]["lr"] for line in done.lines] == [0.5]
    lines = results.read(done.path)
    assert [line["settings"]["lr"] for line in lines] == [0.01, 0.5]
    assert [row[0] for row in table(experiment, lines)[1]] == ["SRU", "SRU (quick)"]


def test_a_case_may_have_its_own_quick_settings(rerun, experiment):
    cases = [dataclasses.replace(case, quick={"lr": 0.25}) for case in experiment.cases]
    changes = {"quick": {"lr": 0.5, "grad_clip": 2.0}, "cases": tuple(cases)}
    (line,) = rerun(changes, only="plain", quick=True).lines
    assert (line["settings"]["lr"], line["settings"]["grad_clip"]) == (0.25, 2.0)
    assert rerun(changes, only="plain").lines[0]["settings"]["lr"] == 0.01


def test_ours_stands_beside_theirs(rerun, experiment):
    lines = rerun(only="s", seeds=2).lines
    for line, score, macs in zip(lines, (0.1, 0.3, 0.5, 0.5), (100, 120, 8, 8), strict=True):
        line |= {"test_score": score, "test_macs": macs, "seconds": 90, "test_seconds": 2e-3}
    lines[0]["solved_after"], lines[1]["solved_after"] = 30, 60
    headings, rows = table(experiment, lines)
    assert headings == ["ours | published", "MSE", "MAC", "solved", "trained", "ms/seq"]
    skip, short = rows
    assert skip[1:3] == ["0.20 ± 0.14 | 0.10 ± 0.02", "110 ± 14.1 | 90"]
    assert skip[3:] == ["0.8 min", "1.5 min", "2.00"]
    assert short[:4] == ["GRU, 9 steps", "0.50 ± 0.00 | 0.30", "8 ± 0 | 80", ""]


def test_a_line_of_an_earlier_version_is_still_found(rerun, monkeypatch):
    done = rerun(only="plain")
    line = json.loads(done.path.read_text())
    del line["settings"]["random_skip"]
    done.path.write_text(json.dumps(line) + "\n")
    seen = trained(monkeypatch)
    assert rerun(only="plain").lines == [line]
    assert seen == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"only": "none"}, "only must be part of one of skip, plain, short; got 'none'"),
        ({"seeds": 0}, "seeds must be a positive integer, got 0"),
        ({"minutes": 0}, "minutes must be a positive number, got 0"),
        ({"quick": True}, "quick must be for an experiment that has it, got tiny"),
        ({"data": "x"}, "task adding takes length, not data; got data='x'"),
    ],
)
def test_what_cannot_be_run_is_named(rerun, tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        rerun(**options)
    assert not list(tmp_path.rglob("*.safetensors"))


def test_a_case_may_have_a_layer_that_is_known_in_its_experiment_only(rerun):
    case = Case("own", "Own", "own-gru", ("", ""))
    drawn = []

    def draw(path, runs):
        drawn.extend(type(load_network(folders[0])[0].recurrent) for _, folders in runs)
        return False

    (line,) = rerun({"cases": (case,), "layers": {"own-gru": OwnGRU}, "draw": draw}).lines
    assert line["model"] == "own-gru"
    assert drawn == [OwnGRU]
    assert "own-gru" not in models()


class OwnGRU(nn.GRU):
    pass


def test_more_is_found_out_of_a_finished_run(rerun):
    changes = {"measure": lambda folder: {"files": len(list(folder.glob("summary.json")))}}
    done = rerun(changes, only="plain")
    assert [line["files"] for line in done.lines] == [1]
    assert results.read(done.path) == done.lines


def test_every_seed_is_drawn_that_has_been_run(rerun):
    drawn = []
    changes = {"draw": lambda path, runs: drawn.append(runs)}
    rerun(only="plain")
    rerun(changes, only="s", seeds=2)
    names = [[case.name, *(folder.name for folder in folders)] for case, folders in drawn[0]]
    both = [["skip", "skip-seed0", "skip-seed1"], ["short", "short-seed0", "short-seed1"]]
    assert sorted(names) == sorted([*both, ["plain", "plain-seed0"]])
    rerun(changes, only="plain", seeds=1)
    assert [len(folders) for _, folders in drawn[1]] == [1, 1, 1]


def test_damaged_results_are_named_and_kept(rerun):
    path = rerun(only="plain").path
    path.write_text('{"case": "pl')
    with pytest.raises(ValueError, match=r"reproduce-tiny.jsonl line 1 must be JSON"):
        rerun(only="plain")
    assert path.read_text() == '{"case": "pl'


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_experiment_can_be_set_up(name):
    chosen = EXPERIMENTS[name]
    names = [case.name for case in chosen.cases]
    assert len(set(names)) == len(names)
    for case in chosen.cases:
        assert len(case.published) == len(chosen.columns)
        for given in (chosen.settings, chosen.settings | chosen.quick):
            with also_known(chosen.layers):
                settings = create_settings(chosen.task, case.model, **(given | case.settings))
            line = results.identity(settings)
            assert json.loads(json.dumps(line)) == line, "it would not be found again"


SKIP = [EXPERIMENTS["skip-adding"], EXPERIMENTS["skip-digits"]]


@pytest.mark.parametrize("chosen", SKIP, ids=lambda chosen: chosen.name)
def test_published_multiply_adds_are_those_of_published_updates(chosen):
    features, scale = (2, 0.5) if chosen.task == "adding" else (1, 1.0)
    for case in chosen.cases:
        _, updates, macs = case.published
        layer = create_model(case.model, features, 110)
        ours = macs_per_sequence(layer, scale * float(updates.split()[0]))
        if case.name != "gru-skip-0.5" or chosen.task != "adding":  # misprinted in the paper
            assert ours == pytest.approx(float(macs), rel=6e-3), case.name


def evaluations(updates, unsolved=()):
    lines = [{"test_updates": u, "test_solved": True} for u in updates]
    for index in unsolved:
        lines[index]["test_solved"] = False
    return lines


@pytest.mark.parametrize(
    ("lines", "shown"),
    [
        (evaluations([30] * 10), True),
        (evaluations([30] * 9), False),
        (evaluations([30] * 10, unsolved=[2]), True),
        (evaluations([30] * 10, unsolved=[7]), False),
        (evaluations([40] * 5 + [39] * 5), False),
        (evaluations([50] * 5 + [40] * 5 + [39.8] * 5), True),
        (evaluations([40] * 5 + [45] * 5), True),
    ],
)
def test_a_run_has_shown_all_when_it_stays_solved_with_no_fewer_updates(lines, shown):
    assert settled(Case("any", "Any", "gru", ()), lines) == shown
    assert settled(Case("few", "Few", "gru", (), goal=40), lines) == (
        shown and lines[-1]["test_updates"] <= 40
    )


def test_an_experiment_goes_to_the_end_of_its_budget_unless_it_says_otherwise():
    assert not experiment.never(Case("any", "Any", "gru", ()), evaluations([30] * 100))
