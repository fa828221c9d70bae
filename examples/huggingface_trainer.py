"""MoEx in the Hugging Face Trainer: `compute_loss_func` is a MoExLoss.

The TimmWrapper of transformers creates the twin by name. Set label smoothing in the criterion: the Trainer ignores
`label_smoothing_factor` if it is given a loss function.
"""

import tempfile

import torch
from torch import Tensor, nn
from torchvision import datasets, transforms
from transformers import (
    EvalPrediction,
    TimmWrapperConfig,
    TimmWrapperForImageClassification,
    Trainer,
    TrainingArguments,
)

from timm_moex import MoExLoss, sample_dir, save_folder

DATA_CONFIG = {"input_size": (3, 28, 28), "mean": (0.0,) * 3, "std": (1.0,) * 3}  # as ToTensor prepares the images


def collate(samples: list[tuple[Tensor, int]]) -> dict[str, Tensor]:
    images, labels = zip(*samples)
    return {"pixel_values": torch.stack(images), "labels": torch.tensor(labels)}


def top1(prediction: EvalPrediction) -> dict[str, float]:
    return {"top1": 100 * float((prediction.predictions.argmax(1) == prediction.label_ids).mean())}


def main(steps: int = 80, output: str = "output/huggingface") -> list[float]:
    to_rgb = transforms.Compose([transforms.ToTensor(), transforms.Lambda(lambda x: x.expand(3, -1, -1))])
    training, validation = (
        datasets.FashionMNIST(str(sample_dir()), train=train, transform=to_rgb) for train in (True, False)
    )
    settings = {"moex_prob": 0.5}
    config = TimmWrapperConfig(architecture="moex_resnet18", num_labels=10, do_pooling=True, model_args=settings)
    model = TimmWrapperForImageClassification(config)
    with tempfile.TemporaryDirectory() as folder:
        args = TrainingArguments(
            folder,
            max_steps=steps,
            per_device_train_batch_size=32,
            per_device_eval_batch_size=250,
            learning_rate=1e-3,
            use_cpu=True,
            logging_steps=1,
            save_strategy="no",
            report_to="none",
            remove_unused_columns=False,
            disable_tqdm=True,
        )
        criterion = MoExLoss(model, nn.CrossEntropyLoss(label_smoothing=0.1))
        trainer = Trainer(model, args, collate, training, validation, compute_loss_func=criterion, compute_metrics=top1)
        trainer.train()
        print(f"top-1: {trainer.evaluate()['eval_top1']:.1f} %")
    save_folder(model.timm_model, output, DATA_CONFIG, label_names=training.classes)
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


if __name__ == "__main__":
    print(f"loss of the last step: {float(main()[-1]):.3f}")
