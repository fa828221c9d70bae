"""Spectrograms, images of one channel, frequency by time: the preset freq_mixstyle mixes moments per frequency.

Those show the response of a microphone, and the label stays. The tones are generated.
"""

import math

import timm
import torch
from torch import Tensor, nn

from timm_moex import create_task


def draw_tones(count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Log spectrograms (B, 1, 64, 64) of a steady tone (0), a rising one (1) or two at once (2), in noise."""
    label = torch.randint(3, (count,), generator=generator)
    seconds = torch.arange(126 * 63 + 126) / 8000
    pitch = 400 + 1200 * torch.rand(count, 1, generator=generator)
    rise = torch.where(label[:, None] == 1, 700.0, 0.0)
    wave = torch.sin(2 * math.pi * (pitch + rise * seconds) * seconds)
    wave = wave + (label[:, None] == 2) * torch.sin(2 * math.pi * (pitch + 900) * seconds)
    wave = wave + 0.1 * torch.randn(wave.shape, generator=generator)
    power = torch.stft(wave, n_fft=126, hop_length=126, window=torch.hann_window(126), return_complex=True).abs()
    return torch.log1p(power[..., :64])[:, None], label


def main(steps: int = 40) -> list[float]:
    generator = torch.Generator().manual_seed(0)
    model = timm.create_model("moex_resnet8_cifar", in_chans=1, num_classes=3, moex_preset="freq_mixstyle")
    task = create_task(model.train(), nn.CrossEntropyLoss(), verbose=False)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    losses = []
    for _ in range(steps):
        loss = task(*draw_tones(32, generator))["loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


if __name__ == "__main__":
    print(f"loss of the last step: {main()[-1]:.3f}")
