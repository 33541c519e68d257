"""Data parallel training with torch's own DistributedDataParallel."""

import subprocess
import sys

PROGRAM = """
import sys, torch, longrnn
import torch.distributed as dist

torch.set_num_threads(1)
rank, store = int(sys.argv[1]), sys.argv[2]
dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
for name in longrnn.models():
    torch.manual_seed(0)
    both = not name.startswith("skip-")
    layer = longrnn.create_model(name, 3, 4, 2, bidirectional=both)
    x = torch.randn(5, 4, 3)
    (layer(x)[0] ** 2).sum().backward()
    trained = [p for p in layer.parameters() if p.requires_grad]
    wanted = [p.grad.clone() for p in trained]
    layer.zero_grad()
    parallel = torch.nn.parallel.DistributedDataParallel(layer)
    for _ in range(2):  # an unused parameter fails in the second step
        layer.zero_grad()
        (parallel(x[:, rank * 2 : rank * 2 + 2])[0] ** 2).sum().backward()
    for p, grad in zip(trained, wanted, strict=True):
        torch.testing.assert_close(2 * p.grad, grad)  # a mean over ranks of sums
dist.destroy_process_group()
"""


def test_gradients_of_two_processes_are_those_of_one(tmp_path):
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", PROGRAM, str(rank), str(tmp_path / "store")],
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    for process in processes:
        _, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors
