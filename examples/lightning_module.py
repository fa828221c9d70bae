"""MoEx in a LightningModule. Only one line is specific to MoEx: the criterion is a MoExLoss."""

import lightning
import timm
import torch
from torch import Tensor
from torch.utils.data import DataLoader
from torchvision import datasets, transforms

from timm_moex import MoExLoss, sample_dir


class Classifier(lightning.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.model = timm.create_model("moex_resnet20_cifar", in_chans=1, moex_prob=0.5)
        self.criterion = MoExLoss(self.model, torch.nn.CrossEntropyLoss())
        self.losses: list[float] = []

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        x, y = batch
        loss = self.criterion(self.model(x), y)
        self.losses.append(loss.item())
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.05, momentum=0.9)


def main(steps: int = 20) -> list[float]:
    data = datasets.FashionMNIST(str(sample_dir()), transform=transforms.ToTensor())
    classifier = Classifier()
    trainer = lightning.Trainer(
        max_steps=steps, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False
    )
    trainer.fit(classifier, DataLoader(data, batch_size=64, shuffle=True, drop_last=True))
    return classifier.losses


if __name__ == "__main__":
    print(f"loss of the last step: {main()[-1]:.3f}")
