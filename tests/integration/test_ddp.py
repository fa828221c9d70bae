"""Two gloo processes, each with its own permutation, train like one process on the joined batch."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from small_twins import images, twin
from torch import nn

from timm_moex import draw_swap_index, find_moex, mix_loss
from timm_moex.insertion.draw import take_generator

BATCH = 3  # of each rank in each of the two steps that are accumulated
WORKER = """
import sys
import torch
import torch.distributed as dist
from test_ddp import accumulate, frozen_twin
from timm_moex import MoExTask

arch, rank, port, out = sys.argv[1], int(sys.argv[2]), sys.argv[3], sys.argv[4]
torch.set_num_threads(1)
dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
task = MoExTask(frozen_twin(arch), torch.nn.CrossEntropyLoss(), verbose=False).prepare_distributed()
torch.manual_seed(0)
losses, local = accumulate(task, arch, rank)
grads = {n.removeprefix("trainable_module.module."): p.grad for n, p in task.named_parameters()}
torch.save({"losses": losses, "local": local, "grads": grads}, f"{out}/{rank}.pt")
dist.destroy_process_group()
"""


def frozen_twin(arch):
    """In training mode except BatchNorm and drop path, which are random or mix samples."""
    model = twin(arch, **({} if arch.startswith("vit") else {"drop_path_rate": 0.0})).train()
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.eval()
    return model


def micro_batch(arch, rank, step):
    part = 2 * rank + step
    return images(arch, 4 * BATCH).chunk(4)[part], (torch.arange(4 * BATCH) % 10).chunk(4)[part]


def accumulate(task, arch, rank):
    """Losses of two accumulated steps (the first without synchronisation), and then the first weight's gradient."""
    losses = []
    with task.no_sync():
        result = task(*micro_batch(arch, rank, 0))
        result["loss"].backward()
    losses.append(result["loss"].detach())
    local = next(task.parameters()).grad.clone()
    result = task(*micro_batch(arch, rank, 1))
    result["loss"].backward()
    losses.append(result["loss"].detach())
    return losses, local


def joined_steps(arch):
    """The same in one process: the batches joined, each rank's permutation within its half."""
    model = frozen_twin(arch)
    drawn = []
    for rank in range(2):
        torch.manual_seed(0)  # as in the workers: the rank is part of the draw
        drawn.append([draw_swap_index(BATCH, generator=take_generator(rank)) for _ in range(2)])
    losses = []
    for step in range(2):
        batches = [micro_batch(arch, rank, step) for rank in range(2)]
        x, target = (torch.cat(parts) for parts in zip(*batches))
        index = torch.cat([drawn[0][step], drawn[1][step] + BATCH])
        loss = mix_loss(nn.CrossEntropyLoss(), model(x, swap_index=index), target, index, find_moex(model).lam)
        loss.backward()
        losses.append(loss.detach())
    return losses, {name: p.grad for name, p in model.named_parameters()}, drawn


@pytest.mark.parametrize("arch", ["resnet10t", "vit_tiny_patch16_224"])
def test_two_processes_equal_one_on_the_joined_batch(arch, tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    folders = [str(Path(__file__).parent), str(Path(__file__).parents[1] / "support"), os.environ.get("PYTHONPATH", "")]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(folders)}
    workers = [
        subprocess.Popen([sys.executable, "-c", WORKER, arch, str(rank), str(port), str(tmp_path)], env=env)
        for rank in range(2)
    ]
    try:
        assert [worker.wait(timeout=300) for worker in workers] == [0, 0]
    finally:
        for worker in workers:
            worker.kill()
    ranks = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2)]
    losses, grads, drawn = joined_steps(arch)
    assert any(not torch.equal(drawn[0][s], drawn[1][s]) for s in range(2))  # the ranks draw for themselves
    for step in range(2):
        torch.testing.assert_close((ranks[0]["losses"][step] + ranks[1]["losses"][step]) / 2, losses[step])
    assert not torch.equal(ranks[0]["local"], ranks[1]["local"])  # no_sync left the first step's gradients apart
    for name, expected in grads.items():
        assert torch.equal(ranks[0]["grads"][name], ranks[1]["grads"][name])
        torch.testing.assert_close(ranks[0]["grads"][name], expected, rtol=1e-3, atol=1e-6)
