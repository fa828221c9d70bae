"""Generated parts of Markdown files: tables, and the blocks between `<!-- name -->` and `<!-- /name -->`."""

from collections.abc import Sequence
from pathlib import Path


def table(head: Sequence[str], lines: Sequence[Sequence[str]], left: int = 1) -> str:
    """Format a table whose first `left` columns are aligned left, the others right."""
    rule = ["---"] * left + ["---:"] * (len(head) - left)
    return "\n".join(f"| {' | '.join(row)} |" for row in (head, rule, *lines)) + "\n"


def _bounds(text: str, name: str) -> tuple[int, int]:
    begin = f"<!-- {name} -->\n"
    return text.index(begin) + len(begin), text.index(f"<!-- /{name} -->")


def read_block(file: Path, name: str) -> str:
    text = file.read_text()
    begin, end = _bounds(text, name)
    return text[begin:end]


def write_block(file: Path, name: str, content: str) -> None:
    text = file.read_text()
    begin, end = _bounds(text, name)
    file.write_text(text[:begin] + content + text[end:])
