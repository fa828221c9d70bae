"""MoEx under DistributedDataParallel: `torchrun --nproc-per-node 2 examples/distributed.py [STEPS]`.

Each process exchanges only within its own batch, so no features travel between processes.
"""

import sys

import timm
import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, DistributedSampler
from torchvision import datasets, transforms

from timm_moex import MoExLoss, find_moex, sample_dir


def train(steps: int) -> list[float]:
    torch.manual_seed(0)  # each draw depends on the rank, so the processes still draw different donors
    data = datasets.FashionMNIST(str(sample_dir()), transform=transforms.ToTensor())
    loader = DataLoader(data, batch_size=64, sampler=DistributedSampler(data), drop_last=True)
    model = DistributedDataParallel(timm.create_model("moex_resnet20_cifar", in_chans=1, moex_prob=0.5)).train()
    criterion = MoExLoss(model, torch.nn.CrossEntropyLoss())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    losses = []
    for _, (x, y) in zip(range(steps), loader):
        loss = criterion(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    counts = f"{find_moex(model).exchanged} of {len(losses)} batches exchanged"
    print(f"rank {dist.get_rank()}: {counts}, loss of the last step {losses[-1]:.3f}\n", end="")
    return losses


def main(steps: int = 20) -> list[float]:
    dist.init_process_group("gloo")  # "nccl" on GPUs
    losses = train(steps)  # a separate function, so that DDP is freed before the process group is destroyed
    dist.destroy_process_group()
    return losses


if __name__ == "__main__":
    main(*map(int, sys.argv[1:2]))
