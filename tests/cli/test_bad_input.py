"""Bad input is one line that names what is wrong, and status 2; nothing is lost."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

TINY = "--device cpu --batch-size 4 --hidden-size 8 --steps 4"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("train sums", "task must be one of digits, adding, frequency, memory, "),
        ("train adding --model elman", "model must be one of gilr, gilr-lstm, "),
        ("train adding --model gru --model gru", "model must be given once each, got gru, gru"),
        ("train adding --width 3", "No such option: --width"),
        ("train adding --steps many", "Invalid value for '--steps': "),
        ("train", "Missing argument"),
        ("tarin", "No such command 'tarin'"),
        ("train adding --hidden-size 0", "hidden_size must be a positive integer, got 0"),
        ("train adding --num-layers -1", "num_layers must be a positive integer, got -1"),
        ("train adding --batch-size 0", "batch_size must be a positive integer, got 0"),
        ("train adding --steps 0", "steps must be a positive integer, got 0"),
        ("train adding --epochs 0", "epochs must be a positive integer, got 0"),
        ("train adding --minutes 0", "minutes must be a positive number, got 0.0"),
        ("train adding --lr nan", "lr must be a positive number, got nan"),
        ("train adding --grad-clip -1", "grad_clip must be a positive number, got -1.0"),
        ("train adding --accumulate 0", "accumulate must be a positive integer, got 0"),
        ("train adding --save-every 0", "save_every must be a positive integer, got 0"),
        ("train adding --seed -1", "seed must be at least 0, got -1"),
        ("train adding --dropout 1.5 --num-layers 2", "dropout must lie in [0, 1], got 1.5"),
        ("train adding --dropout -0.1 --num-layers 2", "dropout must lie in [0, 1], got -0.1"),
        ("train adding --dropout 0.5", "dropout must be 0 with num_layers 1"),
        ("train adding --model gru --forget-bias 1", "forget_bias must be for one of gilr-lstm"),
        ("train adding --cost-per-sample 1", "cost_per_sample must be for one of skip-lstm, skip"),
        ("train adding --model skip-gru --cost-per-sample -1", "cost_per_sample must be a number"),
        ("train adding --model skip-gru --cost-per-sample nan", "of at least 0, got nan"),
        ("train adding --update-target 5", "update_target must be for one of skip-lstm, skip-gru"),
        ("train adding --model skip-gru --update-target 5", "update_target must come with a cost_"),
        ("train adding --model skip-gru --random-skip .5", "random_skip must be 0 for skip-gru"),
        ("train adding --random-skip 1", "random_skip must lie in [0, 1), got 1.0"),
        ("train adding --random-skip -0.5", "random_skip must lie in [0, 1), got -0.5"),
        ("train frequency --sampling-period 0", "sampling_period must be a positive number of"),
        ("train adding --sampling-period 1", "task adding takes length, not sampling_period"),
        ("train adding --length 1", "length must be an integer of at least 2, got 1"),
        ("train adding --permuted", "task adding takes length, not permuted"),
        ("train adding --data x", "task adding takes length, not data; got data='x'"),
        ("train text --data x", "data must be a text file, got x"),
        ("train digits --data-dir x", "data must be a folder with train-images-idx3-ubyte"),
        ("train digits --batch-size 5000", "batch_size must be at most the training set's 4000"),
        ("train adding --pooling max", "pooling must be one of last, mean; got 'max'"),
        ("train adding --schedule linear", "schedule must be one of constant, cosine, none"),
        ("train adding --precision fp8", "precision must be one of no, bf16, fp16; got 'fp8'"),
        ("train adding --precision fp16 --device cpu", "precision must be no or bf16 on a CPU"),
        ("train adding --device tpu", "device must be one of auto, cpu, cuda; got 'tpu'"),
        ("train adding --layer-option bias", "layer_option must be name=value, got 'bias'"),
        ("train adding --model gilr-lstm --layer-option no=1", "layer_option must be one that"),
        ("train adding --resume", "output must name the run to resume, got none"),
        ("train adding --resume --output none", "output must hold a run to resume, got none"),
    ],
)
def test_bad_input_is_one_line(longrnn, line, message):
    status, out, err = longrnn(line)
    assert status == 2
    assert out == ""
    assert err.startswith("error: ")
    assert message in err
    assert err.count("\n") == 1
    assert "Traceback" not in err


def test_a_run_is_never_overwritten(longrnn):
    assert longrnn(f"train adding --model gru {TINY} --output run")[0] == 0
    before = {path: path.read_bytes() for path in Path("run").rglob("*") if path.is_file()}
    status, _, err = longrnn(f"train adding --model gru {TINY} --output run")
    assert status == 2
    assert "output must be a new folder, got run, which holds a run" in err
    status, _, err = longrnn(f"train adding --model lstm {TINY} --output run --resume")
    assert status == 2
    assert "model must be 'gru', as when the run in run began, got 'lstm'" in err
    after = {path: path.read_bytes() for path in Path("run").rglob("*") if path.is_file()}
    assert after == before


def test_a_damaged_config_is_named(longrnn):
    assert longrnn(f"train adding --model gru {TINY} --output run")[0] == 0
    Path("run/config.json").write_text('{"task": "add')
    status, _, err = longrnn(f"train adding --model gru {TINY} --output run --resume")
    assert status == 2
    assert "run/config.json must be a JSON file" in err


def test_a_file_in_the_way_is_named(longrnn):
    Path("run").write_text("mine")
    status, _, err = longrnn(f"train adding --model gru {TINY} --output run")
    assert status == 2
    assert "output must be a folder, got the file run" in err
    assert Path("run").read_text() == "mine"


def test_a_full_disk_is_one_line(longrnn):
    assert longrnn(f"train adding --model gru {TINY} --output run")[0] == 0
    summary = Path("run/summary.json").read_bytes()
    os.symlink("/dev/full", "run/summary.json.partial")
    status, _, err = longrnn(f"train adding --model gru {TINY} --output run --resume")
    assert status == 2
    assert err.startswith("error: ")
    assert "run/summary.json.partial cannot be written: No space left on device" in err
    assert err.count("\n") == 1
    assert Path("run/summary.json").read_bytes() == summary
    assert longrnn(f"train adding --model gru {TINY} --output run --resume")[0] == 0


@pytest.mark.parametrize("missing", ["typer", "rich", "accelerate"])
def test_without_the_extra_it_says_what_to_install(missing):
    program = f"""
import sys
sys.modules["{missing}"] = None
from longrnn.cli import main
sys.argv[1:] = ["train", "adding"]
main()
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert f"needs {missing}" in done.stderr
    assert 'pip install "longrnn[train]"' in done.stderr
    assert done.stderr.count("\n") == 1
