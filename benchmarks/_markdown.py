"""Tables in Markdown files, in blocks between `<!-- name -->` and `<!-- /name -->`."""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path


def table(head: Sequence[str], lines: Sequence[Sequence[str]], left: int = 1) -> str:
    """Format a table with its first `left` columns aligned left and the others right."""
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


def main(description: str | None, blocks: Mapping[tuple[Path, str], str]) -> None:
    """Run a report's command line: print the blocks, or with `--write` put them into their pages.

    Args:
        description: The report's docstring.
        blocks: Content of each (page, name).
    """
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="put the tables between their markers in the pages")
    write = parser.parse_args().write
    for (file, name), content in blocks.items():
        if write:
            write_block(file, name, content)
        else:
            print(f"\n## {name}\n\n{content}")
