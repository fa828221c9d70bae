"""Fine-tune a pretrained twin on your own images: `python examples/finetune_folder.py [DIR]`.

DIR contains one folder of images per class, and a fifth of the images is held out for evaluation. Without DIR, the
script uses 200 images of the packaged sample. It starts from packaged weights for grey images. If you have access to
the Hub, you can use any of timm's models, such as "moex_resnet50.a1_in1k", and leave out input_img_mode, which reads
the images as grey.
"""

import sys
import tempfile
from pathlib import Path

import timm
import torch
from timm.data import create_dataset, create_transform, resolve_data_config
from torch.utils.data import DataLoader, Subset
from torchvision import datasets

import timm_moex


def write_sample(folder: Path) -> None:
    """Write 20 images of each of the sample's ten classes as PNG files."""
    sample = datasets.FashionMNIST(str(timm_moex.sample_dir()))
    for n, label in enumerate(sample.targets.tolist()):
        class_folder = folder / sample.classes[label].replace("/", "-")
        class_folder.mkdir(exist_ok=True)
        if len(list(class_folder.iterdir())) < 20:
            sample[n][0].save(class_folder / f"{n}.png")


def main(folder: Path | None = None, steps: int = 20, output: Path = Path("output/finetuned")) -> list[float]:
    if folder is None:
        with tempfile.TemporaryDirectory() as temporary:
            write_sample(Path(temporary))
            return main(Path(temporary), steps, output)
    data, held_out = (create_dataset("", root=str(folder), split="", input_img_mode="L") for _ in range(2))
    classes = list(data.reader.class_to_idx)
    name = "moex_resnet20_cifar.fmnist_sample"
    model = timm.create_model(name, pretrained=True, num_classes=len(classes), moex_prob=0.5)
    data_config = resolve_data_config({}, model=model)
    data.transform, held_out.transform = (create_transform(**data_config, is_training=t) for t in (True, False))
    order = torch.randperm(len(data), generator=torch.Generator().manual_seed(0)).tolist()
    chosen, rest = order[len(data) // 5 :], order[: len(data) // 5]
    loader = DataLoader(Subset(data, chosen), batch_size=32, shuffle=True, drop_last=True)
    criterion = timm_moex.MoExLoss(model.train(), torch.nn.CrossEntropyLoss())
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    losses: list[float] = []
    while len(losses) < steps:
        for _, (x, y) in zip(range(steps - len(losses)), loader):
            loss = criterion(model(x), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())

    model.eval()
    with torch.no_grad():
        correct = sum((model(x).argmax(1) == y).sum().item() for x, y in DataLoader(Subset(held_out, rest), 32))
    print(f"top-1 on {len(rest)} images held out: {100 * correct / len(rest):.1f} %")
    timm_moex.save_folder(model, output, data_config, label_names=classes)
    print(f'timm.create_model("local-dir:{output}", pretrained=True) loads it')
    return losses


if __name__ == "__main__":
    print(f"loss of the last step: {main(*map(Path, sys.argv[1:2]))[-1]:.3f}")
