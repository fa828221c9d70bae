"""MoEx with Accelerate: `accelerate launch examples/accelerate_loop.py`."""

import timm
import torch
from accelerate import Accelerator
from torch.utils.data import DataLoader
from torchvision import datasets, transforms

from timm_moex import MoExLoss, sample_dir


def main(steps: int = 20) -> list[float]:
    accelerator = Accelerator(cpu=not torch.cuda.is_available())
    data = datasets.FashionMNIST(str(sample_dir()), transform=transforms.ToTensor())
    model = timm.create_model("moex_resnet20_cifar", in_chans=1, moex_prob=0.5).train()
    criterion = MoExLoss(model, torch.nn.CrossEntropyLoss())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    loader = DataLoader(data, batch_size=64, shuffle=True, drop_last=True)
    model, optimizer, loader = accelerator.prepare(model, optimizer, loader)
    losses = []
    for _, (x, y) in zip(range(steps), loader):
        loss = criterion(model(x), y)
        optimizer.zero_grad()
        accelerator.backward(loss)
        optimizer.step()
        losses.append(loss.item())
    return losses


if __name__ == "__main__":
    print(f"loss of the last step: {main()[-1]:.3f}")
