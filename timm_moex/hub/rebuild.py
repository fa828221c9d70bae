"""Check that timm can rebuild the saved model from a newly written folder."""

from pathlib import Path

import timm
import torch
from torch import Tensor, nn

from ..utils.messages import one_line, short_repr
from ..utils.reraise import reraise_as

__all__ = ["check_rebuilt"]

_REMEDY = (
    "create_model cannot build this layer from config.json. Change the classifier with "
    "model.reset_classifier(num_classes), and other layers with arguments of timm.create_model passed as model_args"
)


def check_rebuilt(folder: Path, model: nn.Module, input_size: tuple[int, int, int]) -> None:
    """Build a model from the folder and compare its logits with the saved model's (on the CPU, in eval mode).

    Raises:
        ValueError: The folder cannot be loaded or gives different logits; the message names the layer that differs.
    """
    images = torch.randn(2, *input_size, generator=torch.Generator().manual_seed(0))
    with (
        reraise_as(ValueError, f"model does not accept images of input_size {tuple(input_size)}"),
        torch.inference_mode(),
    ):
        expected = model(images)
    name = f"local-dir:{folder}"
    with torch.random.fork_rng(devices=[]):
        try:
            built = timm.create_model(name, pretrained=True).eval()
        except Exception as error:  # any type: the constructor gets whatever model_args contains
            with reraise_as(ValueError, "model_args: the model cannot be rebuilt"):
                timm.create_model(name, pretrained=False)
            raise ValueError(f"model: {one_line(error)}; {_REMEDY}") from error
    with torch.inference_mode():
        found = built(images)
    try:
        largest = float(expected.abs().max()) if isinstance(expected, Tensor) else 1.0
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4 * largest, equal_nan=True)
    except AssertionError as error:
        raise ValueError(f"model: {_other_layer(model, built)}; {_REMEDY}") from error


def _other_layer(model: nn.Module, built: nn.Module) -> str:
    """Describe the first layer that differs between the two models."""
    theirs = dict(built.named_modules())
    for name, layer in model.named_modules():
        is_leaf = not any(layer.children())
        if is_leaf and repr(layer) != repr(theirs.get(name)):
            there = short_repr(theirs.get(name))
            return f"layer {name!r} is {short_repr(layer)}, but the rebuilt model has {there}"
    return "its logits differ from the rebuilt model's, although their layers are the same"
