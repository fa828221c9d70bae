"""MoEx in the Hugging Face Trainer: `compute_loss_func` is a MoExLoss.

The TimmWrapper of transformers creates the twin by name. Set label smoothing in the criterion: the Trainer ignores
`label_smoothing_factor` if it is given a loss function.
"""

import tempfile

import torch
from torch import Tensor, nn
from torchvision import datasets, transforms
from transformers import TimmWrapperConfig, TimmWrapperForImageClassification, Trainer, TrainingArguments

from timm_moex import MoExLoss, sample_dir


def collate(samples: list[tuple[Tensor, int]]) -> dict[str, Tensor]:
    images, labels = zip(*samples)
    return {"pixel_values": torch.stack(images), "labels": torch.tensor(labels)}


def main(steps: int = 20) -> list[float]:
    to_rgb = transforms.Compose([transforms.ToTensor(), transforms.Lambda(lambda x: x.expand(3, -1, -1))])
    data = datasets.FashionMNIST(str(sample_dir()), transform=to_rgb)
    settings = {"moex_prob": 0.5}
    config = TimmWrapperConfig(architecture="moex_resnet18", num_labels=10, do_pooling=True, model_args=settings)
    model = TimmWrapperForImageClassification(config)
    with tempfile.TemporaryDirectory() as folder:
        args = TrainingArguments(
            folder,
            max_steps=steps,
            per_device_train_batch_size=32,
            learning_rate=1e-3,
            use_cpu=True,
            logging_steps=1,
            save_strategy="no",
            report_to="none",
            remove_unused_columns=False,
            disable_tqdm=True,
        )
        criterion = MoExLoss(model, nn.CrossEntropyLoss(label_smoothing=0.1))
        trainer = Trainer(model, args, collate, train_dataset=data, compute_loss_func=criterion)
        trainer.train()
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


if __name__ == "__main__":
    print(f"loss of the last step: {float(main()[-1]):.3f}")
