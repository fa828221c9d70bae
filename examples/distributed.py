"""MoEx under DistributedDataParallel: `torchrun --nproc-per-node 2 examples/distributed.py [STEPS]`.

Each process draws its own permutation of its own batch, so no features travel between processes.
"""

import sys

import timm
import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, DistributedSampler
from torchvision import datasets, transforms

from timm_moex import create_task
from timm_moex.training.datasets import sample_dir


def train(steps: int) -> list[float]:
    rank = dist.get_rank()
    torch.manual_seed(rank)  # other permutations in each process; DDP broadcasts the weights of rank 0
    data = datasets.FashionMNIST(str(sample_dir()), transform=transforms.ToTensor())
    loader = DataLoader(data, batch_size=64, sampler=DistributedSampler(data), drop_last=True)
    model = timm.create_model("moex_resnet20_cifar", in_chans=1, moex_prob=0.5).train()
    task = create_task(DistributedDataParallel(model), torch.nn.CrossEntropyLoss(), verbose=False)
    optimizer = torch.optim.SGD(task.parameters(), lr=0.05, momentum=0.9)
    losses, exchanged = [], 0
    for _, (x, y) in zip(range(steps), loader):
        result = task(x, y)
        optimizer.zero_grad()
        result["loss"].backward()
        optimizer.step()
        losses.append(result["loss"].item())
        exchanged += result["exchanged"]
    counts = f"{exchanged} of {len(losses)} batches exchanged"
    print(f"rank {rank}: {counts}, loss of the last step {losses[-1]:.3f}\n", end="")
    return losses


def main(steps: int = 20) -> list[float]:
    dist.init_process_group("gloo")  # "nccl" on GPUs
    losses = train(steps)  # in a function of its own: DDP goes before its process group
    dist.destroy_process_group()
    return losses


if __name__ == "__main__":
    main(*map(int, sys.argv[1:2]))
