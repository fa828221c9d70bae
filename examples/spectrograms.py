"""Freq-MixStyle on spectrograms, one-channel images of frequency by time: `python examples/spectrograms.py [FOLDER]`.

The preset freq_mixstyle mixes moments per frequency. These depend on the microphone and the voice rather than on the
word, so the labels are not mixed. FOLDER contains spoken digits named `recordings/{digit}_{speaker}_{n}.wav`, as in the
Free Spoken Digit Dataset. Each donor is another speaker, and the last speaker is held out for evaluation. Without
FOLDER, the script generates tones from four "speakers" with different timbres.
"""

import math
import sys
import wave
from collections.abc import Iterator
from pathlib import Path

import timm
import torch
from torch import Tensor, nn

import timm_moex  # noqa: F401  registers the twins

Samples = tuple[Tensor, Tensor, Tensor]  # waves (N, 8192), labels (N,), speakers (N,)


def read_digits(folder: Path) -> Samples:
    """Read recordings (16-bit mono WAV, 8 kHz), and cut or pad them to 8192 samples."""
    waves, labels, names = [], [], []
    for path in sorted(folder.glob("recordings/*.wav")):
        digit, speaker, _ = path.stem.split("_")
        with wave.open(str(path)) as file:
            samples = torch.frombuffer(bytearray(file.readframes(8192)), dtype=torch.int16) / 2**15
        waves.append(nn.functional.pad(samples, (0, 8192 - len(samples))))
        labels.append(int(digit))
        names.append(speaker)
    if not waves:
        raise FileNotFoundError(f"{folder} contains no recordings/*.wav")
    speakers = sorted(set(names))
    return torch.stack(waves), torch.tensor(labels), torch.tensor([speakers.index(name) for name in names])


def draw_tones(count: int = 480) -> Samples:
    """Generate noisy steady tones (0), rising tones (1) or pairs of tones (2); overtones differ by speaker."""
    labels, speakers = torch.randint(3, (count,)), torch.arange(count) % 4
    seconds = torch.arange(8192) / 8000
    pitch, rise = 300 + 500 * torch.rand(count, 1), torch.where(labels[:, None] == 1, 300.0, 0.0)
    phase = 2 * math.pi * (pitch + rise * seconds) * seconds
    overtone = 0.4 * speakers[:, None] * torch.sin(3 * phase)
    second = (labels[:, None] == 2) * torch.sin(2 * math.pi * (pitch + 700) * seconds)
    return phase.sin() + overtone + second + 0.1 * torch.randn(count, 8192), labels, speakers


def log_mel(waves: Tensor, bands: int = 64) -> Tensor:
    """Compute log-mel spectrograms (N, 1, bands, 65) of waves (N, 8192) at 8 kHz."""
    power = torch.stft(waves, 512, 128, window=torch.hann_window(512), return_complex=True).abs().square()
    edges = 700 * (10 ** (torch.linspace(0, 2595 * math.log10(1 + 4000 / 700), bands + 2) / 2595) - 1)
    left, centre, right = edges[:-2, None], edges[1:-1, None], edges[2:, None]
    hertz = torch.linspace(0, 4000, 257)
    filters = torch.minimum((hertz - left) / (centre - left), (right - hertz) / (right - centre)).clamp(min=0)
    return torch.log(filters @ power + 1e-4)[:, None]


def batches(samples: Samples, size: int) -> Iterator[Samples]:
    while True:
        for chosen in torch.randperm(len(samples[0])).split(size):
            yield tuple(part[chosen] for part in samples)


def main(folder: Path | None = None, steps: int | None = None) -> list[float]:
    if steps is None:
        steps = 40 if folder is None else 400  # 400 steps take two minutes on one core
    waves, labels, speakers = draw_tones() if folder is None else read_digits(folder)
    images, classes = log_mel(waves), int(labels.max()) + 1
    held_out = speakers == speakers.max()
    images = (images - images[~held_out].mean()) / images[~held_out].std()
    training = images[~held_out], labels[~held_out], speakers[~held_out]
    model = timm.create_model(
        "moex_resnet8_cifar", in_chans=1, num_classes=classes, moex_preset="freq_mixstyle"
    ).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    losses = []
    for _, (x, y, speaker) in zip(range(steps), batches(training, 32)):
        loss = nn.functional.cross_entropy(model(x, groups=speaker), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())

    model.eval()
    with torch.no_grad():
        predicted = torch.cat([model(part).argmax(1) for part in images[held_out].split(250)])
    print(f"top-1 on the held-out speaker: {100 * (predicted == labels[held_out]).float().mean():.1f} %")
    return losses


if __name__ == "__main__":
    print(f"loss of the last step: {main(*map(Path, sys.argv[1:2]))[-1]:.3f}")
