"""MoEx in a model from outside timm, torchvision's ResNet-18: `python examples/torchvision_model.py`."""

import torch
import torchvision
from torch.utils.data import DataLoader
from torchvision import datasets, transforms

from timm_moex import MoExLoss, insert_moex, sample_dir


def main(steps: int = 60) -> list[float]:
    to_rgb = transforms.Compose([transforms.ToTensor(), transforms.Lambda(lambda x: x.expand(3, -1, -1))])
    training, validation = (datasets.FashionMNIST(str(sample_dir()), train, to_rgb) for train in (True, False))
    model = insert_moex(torchvision.models.resnet18(num_classes=10), "layer1", norm="pono", prob=0.5)
    criterion = MoExLoss(model.train(), torch.nn.CrossEntropyLoss())
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    losses = []
    for _, (x, y) in zip(range(steps), DataLoader(training, batch_size=32, shuffle=True)):
        loss = criterion(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())

    model.eval()
    with torch.no_grad():
        correct = sum((model(x).argmax(1) == y).sum().item() for x, y in DataLoader(validation, batch_size=250))
    print(f"top-1: {100 * correct / len(validation):.1f} %")
    return losses


if __name__ == "__main__":
    print(f"loss of the last step: {main()[-1]:.3f}")
