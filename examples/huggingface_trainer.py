"""MoEx in the Hugging Face Trainer: a mixin replaces `compute_loss`; the model may be any that Trainer takes.

The exchange goes into the timm model, which transformers' TimmWrapper has as `.timm_model`; the wrapper has no site.
"""

import tempfile
from typing import Any

import timm
import torch
from torch import Tensor, nn
from torchvision import datasets, transforms
from transformers import TimmWrapperConfig, TimmWrapperForImageClassification, Trainer, TrainingArguments

from timm_moex import draw_swap_index, exchanging, find_moex, insert_moex, mix_loss
from timm_moex.training.datasets import sample_dir


class MoExTrainerMixin:
    """Put it before Trainer: `class MoExTrainer(MoExTrainerMixin, Trainer)`."""

    def compute_loss(
        self, model: nn.Module, inputs: dict[str, Any], return_outputs: bool = False, **kwargs: Any
    ) -> Tensor | tuple[Tensor, Any]:
        images, labels = inputs["pixel_values"], inputs["labels"]
        moex = find_moex(model)
        swap_index = draw_swap_index(len(labels), moex.prob) if model.training else None
        if swap_index is not None:
            swap_index = swap_index.to(labels.device)
        with exchanging(model, swap_index):
            outputs = model(pixel_values=images)
        loss = mix_loss(nn.functional.cross_entropy, outputs.logits, labels, swap_index, moex.lam)
        return (loss, outputs) if return_outputs else loss


class MoExTrainer(MoExTrainerMixin, Trainer):
    """Trainer with Moment Exchange."""


def collate(samples: list[tuple[Tensor, int]]) -> dict[str, Tensor]:
    images, labels = zip(*samples)
    return {"pixel_values": torch.stack(images), "labels": torch.tensor(labels)}


def main(steps: int = 20) -> list[float]:
    to_rgb = transforms.Compose([transforms.ToTensor(), transforms.Lambda(lambda x: x.expand(3, -1, -1))])
    data = datasets.FashionMNIST(str(sample_dir()), transform=to_rgb)
    config = TimmWrapperConfig(architecture="resnet18", num_labels=10, do_pooling=True)
    model = TimmWrapperForImageClassification(config)
    insert_moex(model.timm_model, "stem", prob=0.5)
    with tempfile.TemporaryDirectory() as folder:
        args = TrainingArguments(
            folder, max_steps=steps, per_device_train_batch_size=32, learning_rate=1e-3, use_cpu=True, logging_steps=1,
            save_strategy="no", report_to="none", remove_unused_columns=False, disable_tqdm=True,
        )  # fmt: skip
        trainer = MoExTrainer(model=model, args=args, train_dataset=data, data_collator=collate)
        trainer.train()
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


if __name__ == "__main__":
    print(f"timm {timm.__version__}, loss of the last step: {float(main()[-1]):.3f}")
