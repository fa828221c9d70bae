"""Fine-tune a pretrained twin on your own images: `python examples/finetune_folder.py [DIR]`.

DIR contains one folder of images per class. Without DIR, the script writes 200 images of the packaged sample to a
temporary folder. It uses packaged weights for grey images. If you have access to the Hub, you can use any of timm's
models, such as "moex_resnet50.a1_in1k", and leave out input_img_mode, which reads the images as grey.
"""

import sys
import tempfile
from pathlib import Path

import timm
import torch
from timm.data import create_dataset, create_transform, resolve_data_config
from torch.utils.data import DataLoader
from torchvision import datasets

from timm_moex import MoExLoss, sample_dir


def write_sample(folder: Path) -> None:
    """Write 20 images of each of the sample's ten classes as PNG files."""
    sample = datasets.FashionMNIST(str(sample_dir()))
    for n, label in enumerate(sample.targets.tolist()):
        class_folder = folder / sample.classes[label].replace("/", "-")
        class_folder.mkdir(exist_ok=True)
        if len(list(class_folder.iterdir())) < 20:
            sample[n][0].save(class_folder / f"{n}.png")


def main(folder: Path | None = None, steps: int = 20) -> list[float]:
    if folder is None:
        with tempfile.TemporaryDirectory() as temporary:
            write_sample(Path(temporary))
            return main(Path(temporary), steps)
    data = create_dataset("", root=str(folder), split="", input_img_mode="L")
    classes = len(data.reader.class_to_idx)
    model = timm.create_model("moex_resnet20_cifar.fmnist_sample", pretrained=True, num_classes=classes, moex_prob=0.5)
    data.transform = create_transform(**resolve_data_config({}, model=model), is_training=True)
    loader = DataLoader(data, batch_size=32, shuffle=True, drop_last=True)
    criterion = MoExLoss(model.train(), torch.nn.CrossEntropyLoss())
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    losses: list[float] = []
    while len(losses) < steps:
        for _, (x, y) in zip(range(steps - len(losses)), loader):
            loss = criterion(model(x), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
    return losses


if __name__ == "__main__":
    print(f"loss of the last step: {main(*map(Path, sys.argv[1:2]))[-1]:.3f}")
