"""MoEx in a LightningModule. Only one line is specific to MoEx: the criterion is a MoExLoss."""

import lightning
import timm
import torch
from torch import Tensor
from torch.utils.data import DataLoader
from torchvision import datasets, transforms

from timm_moex import MoExLoss, sample_dir, save_folder

DATA_CONFIG = {"input_size": (1, 28, 28), "mean": (0.0,), "std": (1.0,)}  # as ToTensor prepares the images


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

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        x, y = batch
        self.log("top1", 100 * (self.model(x).argmax(1) == y).float().mean())

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.05, momentum=0.9)


def main(steps: int = 80, output: str = "output/lightning") -> list[float]:
    training, validation = (
        datasets.FashionMNIST(str(sample_dir()), train=train, transform=transforms.ToTensor())
        for train in (True, False)
    )
    classifier = Classifier()
    trainer = lightning.Trainer(
        max_steps=steps, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False
    )
    trainer.fit(classifier, DataLoader(training, batch_size=64, shuffle=True, drop_last=True))
    trainer.validate(classifier, DataLoader(validation, batch_size=250))
    save_folder(classifier.model, output, DATA_CONFIG, label_names=training.classes)
    return classifier.losses


if __name__ == "__main__":
    print(f"loss of the last step: {main()[-1]:.3f}")
