"""Check that a newly written folder rebuilds the saved model."""

from functools import partial
from pathlib import Path
from typing import Any

import timm
import torch
from torch import Tensor, nn

from ..utils.messages import short_repr
from ..utils.reraise import reraise_as

__all__ = ["check_rebuilt"]

_REMEDY = (
    "create_model cannot build this layer from config.json. Change the classifier with "
    "model.reset_classifier(num_classes), and other layers with arguments of timm.create_model passed as model_args"
)


def check_rebuilt(folder: Path, model: nn.Module, input_size: tuple[int, int, int]) -> None:
    """Build a model from the folder and compare its logits with the saved model's on a fixed batch.

    Args:
        folder: Contains model.safetensors and config.json.
        model: The saved model, on the CPU and in eval mode.
        input_size: Size of its images, (C, H, W).

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
                built = timm.create_model(name, pretrained=False)
            raise ValueError(f"model: {_other_weight(model, built)}; {_REMEDY}") from error
    try:
        with torch.inference_mode():
            _assert_close(built(images), expected)
    except AssertionError as error:
        raise ValueError(f"model: {_other_layer(model, built, images)}; {_REMEDY}") from error


def _assert_close(found: Any, expected: Any) -> None:
    atol = 1e-4 * float(expected.abs().max()) if isinstance(expected, Tensor) and expected.numel() else 1e-4
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=atol, equal_nan=True)


def _other_weight(model: nn.Module, built: nn.Module) -> str:
    """Describe the first weight that one model lacks or that has different shapes in the two models."""
    ours, theirs = model.state_dict(), built.state_dict()
    for key, tensor in ours.items():
        if key not in theirs:
            return f"{key} belongs to a layer that was added"
        if theirs[key].shape != tensor.shape:
            shape = tuple(theirs[key].shape)
            return f"{key} has shape {tuple(tensor.shape)}, but the rebuilt model has {shape}"
    missing = [key for key in theirs if key not in ours]
    return f"{missing[0]} is missing" if missing else "its weights cannot be reloaded"


@torch.inference_mode()
def _other_layer(model: nn.Module, built: nn.Module, images: Tensor) -> str:
    """Describe the first layer, in call order, whose outputs differ between the two models."""
    ours, theirs = _outputs(model, images), _outputs(built, images)
    for name, output in ours.items():
        try:
            _assert_close(theirs[name], output)
        except (KeyError, AssertionError):
            layers = [dict(net.named_modules()).get(name) for net in (model, built)]
            here, there = (short_repr(layer) for layer in layers)
            return f"layer {name!r} is {here}, but the rebuilt model has {there}"
    return "its logits differ from the rebuilt model's, although their layers are the same"


def _outputs(net: nn.Module, images: Tensor) -> dict[str, Any]:
    """Return the output of the first call of each leaf module, by name."""
    outputs: dict[str, Any] = {}

    def note(name: str, module: nn.Module, args: Any, output: Any) -> None:
        if isinstance(output, Tensor):
            outputs.setdefault(name, output.clone())  # an in-place activation may overwrite it

    layers = [(name, module) for name, module in net.named_modules() if not any(module.children())]
    handles = [module.register_forward_hook(partial(note, name)) for name, module in layers]
    try:
        net(images)
    finally:
        for handle in handles:
            handle.remove()
    return outputs
