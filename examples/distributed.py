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

from timm_moex import MoExLoss, find_moex, sample_dir, save_folder

DATA_CONFIG = {"input_size": (1, 28, 28), "mean": (0.0,), "std": (1.0,)}  # as ToTensor prepares the images


def train(steps: int) -> list[float]:
    torch.manual_seed(0)  # each draw depends on the rank, so the processes still draw different donors
    data, held_out = (
        datasets.FashionMNIST(str(sample_dir()), train=train, transform=transforms.ToTensor())
        for train in (True, False)
    )
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

    model.eval()
    correct = torch.zeros(())
    for x, y in DataLoader(
        held_out, batch_size=250, sampler=range(dist.get_rank(), len(held_out), dist.get_world_size())
    ):
        with torch.no_grad():
            correct += (model.module(x).argmax(1) == y).sum()
    dist.all_reduce(correct)
    if dist.get_rank() == 0:
        print(f"top-1: {100 * correct / len(held_out):.1f} %\n", end="")
        save_folder(model, "output/distributed", DATA_CONFIG, label_names=data.classes)
    return losses


def main(steps: int = 40) -> list[float]:
    dist.init_process_group("gloo")  # "nccl" on GPUs
    losses = train(steps)  # a separate function, so that DDP is freed before the process group is destroyed
    dist.destroy_process_group()
    return losses


if __name__ == "__main__":
    main(*map(int, sys.argv[1:2]))
