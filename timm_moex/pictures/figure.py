"""Create and save matplotlib figures. matplotlib is an extra: `pip install timm-moex[plots]`."""

from pathlib import Path
from typing import Any

from ..utils.files import write_atomically

__all__ = ["check_picture_path", "is_picture_by", "new_figure", "save_figure"]


def new_figure(width: float, height: float) -> Any:
    """Create a matplotlib figure without pyplot, which would choose a backend and could open a window.

    Args:
        width: Width in inches.
        height: Height in inches.

    Raises:
        ImportError: matplotlib is not installed.

    Example:
        >>> new_figure(4, 3).get_size_inches().tolist()
        [4.0, 3.0]
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError("pictures need matplotlib: pip install timm-moex[plots]") from error
    return Figure(figsize=(width, height), layout="constrained")


def check_picture_path(path: str | Path) -> None:
    """Check that a picture can be written to `path`; call it before any expensive work.

    Args:
        path: The picture; its suffix chooses the format.

    Raises:
        ImportError: matplotlib is not installed.
        ValueError: The suffix is not a picture format.
        FileNotFoundError: The folder does not exist.

    Example:
        >>> check_picture_path("exchange.docx")
        Traceback (most recent call last):
        ...
        ValueError: --output exchange.docx: a picture's name ends in .png, .svg, .pdf, .jpg or .webp
    """
    path, known = Path(path), new_figure(1, 1).canvas.get_supported_filetypes()
    if path.suffix.lower().removeprefix(".") not in known:
        raise ValueError(f"--output {path}: a picture's name ends in .png, .svg, .pdf, .jpg or .webp")
    if not path.parent.is_dir():
        raise FileNotFoundError(f"--output {path}: there is no folder {path.parent}")


def save_figure(figure: Any, path: str | Path, dpi: int = 120, *, made_by: str | None = None) -> Path:
    """Write a figure whole or not at all.

    Args:
        figure: From `new_figure`.
        path: The picture; its suffix chooses the format.
        dpi: Dots per inch.
        made_by: Program name written into the picture for `is_picture_by`; only PNG, SVG, PDF, JPEG and WebP can
            store it.

    Returns:
        `path`.

    Raises:
        ValueError, FileNotFoundError: See `check_picture_path`.

    Example:
        >>> import tempfile
        >>> save_figure(new_figure(2, 1), Path(tempfile.mkdtemp()) / "empty.png").name
        'empty.png'
    """
    path = Path(path)
    check_picture_path(path)
    suffix = path.suffix.lower().removeprefix(".")
    from matplotlib import rc_context
    from matplotlib.text import Text

    for text in figure.findobj(Text):  # a "$" in a class or file name does not start a formula
        text.set_parse_math(False)
    mark = _mark(suffix, made_by) if made_by else {}
    with rc_context({"text.parse_math": False}):  # tick labels are only created while the figure is drawn
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
