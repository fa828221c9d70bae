"""Choice of a device by name, and its memory errors."""

import torch

__all__ = ["is_out_of_memory", "pick_device"]


def pick_device(name: str) -> torch.device:
    """Return `torch.device(name)` if it can hold tensors; never fall back to a different device.

    Raises:
        ValueError: The device is not available, or cannot store values ("meta").

    Example:
        >>> pick_device("cpu")
        device(type='cpu')
    """
    try:
        device = torch.device(name)
        torch.ones(1, device=device).item()
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).partition("\n")[0]
        raise ValueError(f"device: {name!r} is not available here; try --device cpu ({reason})") from error
    return device


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error means that memory ran out, on a GPU, on the CPU or in Python.

    Example:
        >>> is_out_of_memory(MemoryError()), is_out_of_memory(RuntimeError("shapes differ"))
        (True, False)
    """
    on_cpu = isinstance(error, RuntimeError) and "DefaultCPUAllocator" in str(error)
    return on_cpu or isinstance(error, (MemoryError, torch.cuda.OutOfMemoryError))
