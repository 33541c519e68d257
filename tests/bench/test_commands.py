import pytest

from longrnn.bench import SUITES, inventory, machine, measure, recurrence, scans
from longrnn.cli.app import run


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setattr(machine, "_ELEMENTS", 1 << 12)
    monkeypatch.setattr(machine, "_SIDE", 16)
    monkeypatch.setattr(measure, "_REPEATS", 3)
    monkeypatch.setattr(recurrence, "_CPU", {"shapes": [(2, 9, 3)]})
    chosen = [c for c in scans.contenders("cpu") if c.name in ("torch.add", "longrnn")]
    monkeypatch.setattr(recurrence, "contenders", lambda device: chosen)


def bench(folder, *arguments):
    return run(["bench", "recurrence", "--seconds", "0.01", "--output", str(folder), *arguments])


def test_bench_prints_a_table_and_names_its_files(tmp_path, capsys):
    assert bench(tmp_path) == 0
    said = capsys.readouterr().out
    assert "recurrence (2, 9, 3) training" in said
    assert "longrnn" in said
    assert {p.suffix for p in tmp_path.iterdir()} == {".jsonl", ".png"}
    readme = tmp_path / "README.md"
    readme.write_text("<!-- bench:recurrence -->\n<!-- /bench -->\n")
    assert bench(tmp_path, "--readme", str(readme)) == 0
    assert "(2, 9, 3)" in readme.read_text(encoding="utf-8")


def test_a_wrong_kernel_of_ours_fails_the_command(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(scans, "linear_recurrence", lambda a, x, **_: x)
    assert bench(tmp_path) == 1
    assert "wrong: longrnn: off by" in capsys.readouterr().out


def test_an_unknown_suite_is_one_line_and_status_2(capsys):
    assert run(["bench", "speed"]) == 2
    said = capsys.readouterr().err
    assert said == f"error: suite must be one of {', '.join(SUITES)}; got 'speed'\n"


def test_info_tells_what_runs_and_why(capsys):
    assert run(["info"]) == 0
    said = capsys.readouterr().out
    for name in ("longrnn", "torch", "threads", "huge pages", "CPU kernels", "GPU kernels"):
        assert f"\n{name}" in f"\n{said}"


def test_info_says_why_there_are_no_kernels(monkeypatch):
    monkeypatch.setattr(inventory._native, "library_path", lambda: None)
    assert "install a C++ compiler" in inventory.inventory()["CPU kernels"]
    assert machine.kernels() == "plain PyTorch"
