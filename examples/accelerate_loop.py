"""MoEx with Accelerate: `accelerate launch examples/accelerate_loop.py`."""

import timm
import torch
from accelerate import Accelerator
from torch.utils.data import DataLoader
from torchvision import datasets, transforms

from timm_moex import MoExLoss, sample_dir, save_folder

DATA_CONFIG = {"input_size": (1, 28, 28), "mean": (0.0,), "std": (1.0,)}  # as ToTensor prepares the images


def main(steps: int = 80, output: str = "output/accelerate") -> list[float]:
    accelerator = Accelerator(cpu=not torch.cuda.is_available())
    training, validation = (
        datasets.FashionMNIST(str(sample_dir()), train=train, transform=transforms.ToTensor())
        for train in (True, False)
    )
    model = timm.create_model("moex_resnet20_cifar", in_chans=1, moex_prob=0.5).train()
    criterion = MoExLoss(model, torch.nn.CrossEntropyLoss())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    loader = DataLoader(training, batch_size=64, shuffle=True, drop_last=True)
    eval_loader = DataLoader(validation, batch_size=250)
    model, optimizer, loader, eval_loader = accelerator.prepare(model, optimizer, loader, eval_loader)
    losses = []
    for _, (x, y) in zip(range(steps), loader):
        loss = criterion(model(x), y)
        optimizer.zero_grad()
        accelerator.backward(loss)
        optimizer.step()
        losses.append(loss.item())

    model.eval()
    correct = []
    for x, y in eval_loader:
        with torch.no_grad():
            correct.append(accelerator.gather_for_metrics(model(x).argmax(1) == y))
    accelerator.print(f"top-1: {100 * torch.cat(correct).float().mean():.1f} %")
    if accelerator.is_main_process:
        save_folder(model, output, DATA_CONFIG, label_names=training.classes)
    return losses


if __name__ == "__main__":
    print(f"loss of the last step: {main()[-1]:.3f}")
