"""MoEx in fastai: the loss function is a MoExLoss, and nothing else changes."""

import timm
import torch
from fastai.callback.core import Callback
from fastai.data.core import DataLoaders
from fastai.learner import Learner
from torch.utils.data import DataLoader, Subset
from torchvision import datasets, transforms

from timm_moex import MoExLoss, sample_dir


class LossRecord(Callback):
    """Keep the loss of every training batch."""

    def before_fit(self) -> None:
        self.losses: list[float] = []

    def after_loss(self) -> None:
        if self.training:
            self.losses.append(self.learn.loss.item())


def main(steps: int = 20) -> list[float]:
    whole = datasets.FashionMNIST(str(sample_dir()), transform=transforms.ToTensor())
    train, valid = Subset(whole, range(64 * steps)), Subset(whole, range(5900, 6000))
    loaders = DataLoaders(DataLoader(train, batch_size=64, shuffle=True), DataLoader(valid, batch_size=100))
    model = timm.create_model("moex_resnet20_cifar", in_chans=1, moex_prob=0.5)
    record = LossRecord()
    learner = Learner(loaders, model, loss_func=MoExLoss(model, torch.nn.CrossEntropyLoss()), cbs=record)
    with learner.no_logging():
        learner.fit(1, lr=1e-3)
    return record.losses


if __name__ == "__main__":
    print(f"loss of the last step: {main()[-1]:.3f}")
