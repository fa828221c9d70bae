"""Devices by name."""

import torch

__all__ = ["is_out_of_memory", "pick_device"]


def pick_device(name: str) -> torch.device:
    """`torch.device(name)`, if tensors can live there; nothing else is chosen in its place.

    Raises:
        ValueError: There is no such device here, or, like "meta", it holds no values.

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
    """Whether an error says that memory ran out, on a GPU, on the CPU, or Python's own.

    Example:
        >>> is_out_of_memory(MemoryError()), is_out_of_memory(RuntimeError("shapes differ"))
        (True, False)
    """
    on_cpu = isinstance(error, RuntimeError) and "DefaultCPUAllocator" in str(error)
    return on_cpu or isinstance(error, (MemoryError, torch.cuda.OutOfMemoryError))
