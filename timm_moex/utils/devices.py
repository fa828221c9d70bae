"""Choose a device by its name."""

import torch

__all__ = ["pick_device"]


def pick_device(name: str) -> torch.device:
    """Return `torch.device(name)` if it can hold tensors; never fall back to a different device.

    Raises:
        ValueError: The device is not available, or cannot store values ("meta").
    """
    try:
        device = torch.device(name)
        torch.ones(1, device=device).item()
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).partition("\n")[0]
        raise ValueError(f"device: {name!r} is not available on this machine; try --device cpu ({reason})") from error
    return device
