"""Create and save Matplotlib figures. Matplotlib is optional: the extra `plots` installs it."""

from pathlib import Path
from typing import Any

from torch import Tensor

from ..utils.files import write_atomically

__all__ = ["check_picture_path", "is_picture_by", "new_figure", "open_frame", "save_figure", "show_image", "show_map"]


def new_figure(width: float, height: float) -> Any:
    """Create a figure, in inches, without pyplot, which would choose a backend and could open a window."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError("pictures need Matplotlib: pip install matplotlib") from error
    return Figure(figsize=(width, height), layout="constrained")


def open_frame(axis: Any, grid: str = "both") -> None:
    """Draw a grid, and no frame at the top and on the right."""
    axis.grid(axis=grid, alpha=0.3)
    axis.spines[["top", "right"]].set_visible(False)


def show_image(axis: Any, image: Tensor) -> None:
    """Show an image (1 or 3, H, W) with values in [0, 1]."""
    show_map(axis, image.permute(1, 2, 0), 0, 1, "gray")


def show_map(axis: Any, values: Tensor, low: float, high: float, colours: str = "viridis") -> Any:
    """Show a map (h, w) with a fixed colour range, and no frame. `colours` is ignored for RGB values (h, w, 3)."""
    drawn = axis.imshow(values.numpy(), cmap=colours, vmin=low, vmax=high, interpolation="nearest")
    axis.set(xticks=[], yticks=[])
    axis.spines[:].set_visible(False)
    return drawn


def check_picture_path(path: str | Path) -> None:
    """Check that a picture can be written to `path`; call it before any expensive work.

    Example:
        >>> check_picture_path("exchange.docx")
        Traceback (most recent call last):
        ...
        ValueError: --output exchange.docx: expected a name that ends in .png, .svg, .pdf, .jpg or .webp
    """
    path, known = Path(path), new_figure(1, 1).canvas.get_supported_filetypes()
    if path.suffix.lower().removeprefix(".") not in known:
        raise ValueError(f"--output {path}: expected a name that ends in .png, .svg, .pdf, .jpg or .webp")
    if not path.parent.is_dir():
        raise FileNotFoundError(f"--output {path}: the folder {path.parent} does not exist")


def save_figure(figure: Any, path: str | Path, dpi: float = 120, *, made_by: str | None = None) -> Path:
    """Write a figure atomically, in the format given by the suffix of `path`, and return `path`.

    PNG, SVG, PDF, JPEG and WebP store `made_by`, the name of a program, for `is_picture_by`.
    """
    path = Path(path)
    check_picture_path(path)
    suffix = path.suffix.lower().removeprefix(".")
    from matplotlib import rc_context
    from matplotlib.text import Text

    for text in figure.findobj(Text):  # a "$" in a class or file name does not start a formula
        text.set_parse_math(False)
    mark = _mark(suffix, made_by) if made_by else {}
    with rc_context({"text.parse_math": False}):  # for tick labels, which are created only while the figure is drawn
        write_atomically(path, lambda file: figure.savefig(file, dpi=dpi, format=suffix, **mark))
    return path


def _mark(suffix: str, made_by: str) -> dict[str, Any]:
    """Return the arguments of `savefig` that write `made_by` into a picture."""
    if suffix in ("jpg", "jpeg"):
        return {"pil_kwargs": {"comment": made_by.encode()}}
    if suffix == "webp":
        return {"pil_kwargs": {"xmp": made_by.encode()}}
    key = {"png": "Software", "svg": "Creator", "pdf": "Creator"}.get(suffix)
    return {"metadata": {key: made_by}} if key else {}


def is_picture_by(path: Path, made_by: str) -> bool:
    """Return whether `save_figure` wrote a picture with this `made_by`.

    Example:
        >>> import tempfile
        >>> path = save_figure(new_figure(2, 1), Path(tempfile.mkdtemp()) / "a.png", made_by="timm-moex show")
        >>> is_picture_by(path, "timm-moex show"), is_picture_by(path, "timm-moex curves")
        (True, False)
    """
    return made_by.encode() in path.read_bytes()
