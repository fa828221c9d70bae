"""MoEx in fastai: the loss function is a MoExLoss, and nothing else changes."""

import timm
import torch
from fastai.callback.core import Callback
from fastai.data.core import DataLoaders
from fastai.learner import Learner
from fastai.metrics import accuracy
from torch.utils.data import DataLoader, Subset
from torchvision import datasets, transforms

from timm_moex import MoExLoss, sample_dir, save_folder

DATA_CONFIG = {"input_size": (1, 28, 28), "mean": (0.0,), "std": (1.0,)}  # as ToTensor prepares the images


class LossRecord(Callback):
    """Keep the loss of every training batch."""

    def __init__(self) -> None:
        self.losses: list[float] = []

    def after_loss(self) -> None:
        if self.training:
            self.losses.append(self.learn.loss.item())


def main(steps: int = 80, output: str = "output/fastai") -> list[float]:
    training, validation = (
        datasets.FashionMNIST(str(sample_dir()), train=train, transform=transforms.ToTensor())
        for train in (True, False)
    )
    few = Subset(training, range(64 * steps))
    loaders = DataLoaders(DataLoader(few, batch_size=64, shuffle=True), DataLoader(validation, batch_size=250))
    model = timm.create_model("moex_resnet20_cifar", in_chans=1, moex_prob=0.5)
    record = LossRecord()
    criterion = MoExLoss(model, torch.nn.CrossEntropyLoss())
    learner = Learner(loaders, model, loss_func=criterion, metrics=accuracy, cbs=record)
    with learner.no_logging():
        learner.fit(1, lr=1e-3)
        print(f"top-1: {100 * learner.validate()[1]:.1f} %")
    save_folder(model, output, DATA_CONFIG, label_names=training.classes)
    return record.losses


if __name__ == "__main__":
    print(f"loss of the last step: {main()[-1]:.3f}")
