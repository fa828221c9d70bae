"""MoEx in fastai: a callback that draws before each batch and mixes the labels after the loss."""

from contextlib import suppress

import timm
import torch
from fastai.callback.core import Callback, CancelBatchException
from fastai.data.core import DataLoaders
from fastai.learner import Learner
from torch.utils.data import DataLoader, Subset
from torchvision import datasets, transforms

from timm_moex import draw_swap_index, exchanging, find_moex, mix_loss
from timm_moex.training.datasets import sample_dir


class MoExCallback(Callback):
    """Exchange moments in the training batches of a Learner whose model holds MoEx."""

    def before_batch(self) -> None:
        moex = find_moex(self.learn.model)
        self.swap_index = draw_swap_index(len(self.learn.yb[0]), moex.prob) if self.training else None
        if self.swap_index is not None:
            self.swap_index = self.swap_index.to(self.learn.yb[0].device)
        self.exchange = exchanging(self.learn.model, self.swap_index)
        self.exchange.__enter__()

    def after_pred(self) -> None:
        exchange, self.exchange = self.exchange, None
        exchange.__exit__(None, None, None)

    def after_loss(self) -> None:
        if self.swap_index is not None:
            lam = find_moex(self.learn.model).lam
            mixed = mix_loss(self.learn.loss_func, self.learn.pred, self.learn.yb[0], self.swap_index, lam)
            self.learn.loss_grad = mixed
            self.learn.loss = mixed.clone()

    def after_cancel_batch(self) -> None:
        if self.exchange is not None:  # cancelled before the model was called: end the exchange as by an error
            exchange, self.exchange = self.exchange, None
            with suppress(CancelBatchException):
                cancelled = CancelBatchException()
                exchange.__exit__(type(cancelled), cancelled, None)


class LossRecord(Callback):
    """Keep the loss of every training batch."""

    def __init__(self) -> None:
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
    learner = Learner(loaders, model, loss_func=torch.nn.CrossEntropyLoss(), cbs=[MoExCallback(), record])
    with learner.no_logging():
        learner.fit(1, lr=1e-3)
    return record.losses


if __name__ == "__main__":
    print(f"loss of the last step: {main()[-1]:.3f}")
