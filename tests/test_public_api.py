"""The public names and signatures match public_api.txt.

After an intended change, run `python tests/test_public_api.py` to update the file, and add a line to CHANGELOG.md.
"""

import contextlib
import difflib
import inspect
import io
import re
from pathlib import Path
from types import ModuleType
from typing import Any

import timm_moex
import timm_moex.hub
from timm_moex.cli import main
from timm_moex.training.recipe import packaged_recipes

WRITTEN = Path(__file__).with_name("public_api.txt")


def signature_of(function: Any) -> str:
    """Leave out types, which may become more precise."""
    signature = inspect.signature(function)
    parameters = [p.replace(annotation=inspect.Parameter.empty) for p in signature.parameters.values()]
    return str(signature.replace(parameters=parameters, return_annotation=inspect.Signature.empty))


def names_of(module: ModuleType) -> list[str]:
    lines = []
    for name in sorted(module.__all__):
        thing = getattr(module, name)
        lines.append(f"{module.__name__}.{name}{signature_of(thing)}")
        if inspect.isclass(thing):
            lines += [f"{module.__name__}.{name}.{member}" for member in sorted(vars(thing)) if member[0] != "_"]
    return lines


def help_of(*command: str) -> str:
    shown = io.StringIO()
    with contextlib.redirect_stdout(shown), contextlib.suppress(SystemExit):
        main([*command, "--help"])
    return shown.getvalue()


def commands() -> list[str]:
    """Each command with its options, taken from its help."""
    lines = []
    for command in sorted(set(re.findall(r"^    ([a-z]+)\s", help_of(), re.MULTILINE))):
        options = sorted(set(re.findall(r"^  (?:-\w[^,]*, )?(--[a-z0-9-]+)", help_of(command), re.MULTILINE)))
        lines.append(" ".join(["timm-moex", command, *options]))
    return lines


def public_api() -> str:
    recipes = [f"recipe {name}" for name in packaged_recipes()]
    return "\n".join([*names_of(timm_moex), *names_of(timm_moex.hub), *commands(), *recipes]) + "\n"


def test_public_api_is_the_one_written_down():
    found, written = public_api().splitlines(), WRITTEN.read_text().splitlines()
    changed = "\n".join(difflib.unified_diff(written, found, "public_api.txt", "now", lineterm="", n=0))
    assert not changed, f"{changed}\nOn purpose? Run python tests/test_public_api.py and add a line to CHANGELOG.md"


if __name__ == "__main__":
    WRITTEN.write_text(public_api())
    print(f"wrote {WRITTEN}")
