"""A figure to draw on and the file it goes to. matplotlib is an extra: `pip install timm-moex[plots]`."""

from pathlib import Path
from typing import Any

from ..utils.files import write_atomically

__all__ = ["check_picture_path", "new_figure", "save_figure"]


def new_figure(width: float, height: float) -> Any:
    """Make a matplotlib figure without pyplot: no backend is chosen, no window is opened.

    Args:
        width: In inches.
        height: In inches.

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
    """Check that a picture can be written to `path`, before the work that leads to it.

    Args:
        path: The picture; its suffix chooses the format.

    Raises:
        ImportError: matplotlib is not installed.
        ValueError: No picture has this suffix.
        FileNotFoundError: There is no such folder.

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


def save_figure(figure: Any, path: str | Path, dpi: int = 120) -> Path:
    """Write a figure whole or not at all.

    Args:
        figure: From `new_figure`.
        path: The picture; its suffix chooses the format.
        dpi: Dots per inch.

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

    for text in figure.findobj(Text):  # a "$" in the name of a class or a file is no formula
        text.set_parse_math(False)
    with rc_context({"text.parse_math": False}):  # of tick labels, which come into being while a figure is drawn
        write_atomically(path, lambda file: figure.savefig(file, dpi=dpi, format=suffix))
    return path
