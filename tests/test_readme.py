"""Every fenced block of README.md and docs/ runs as printed, except for the substitutions listed here.

The blocks of a page share one folder, because some load what an earlier one has written. Each Python block runs in its
own namespace. A test runs its block and all blocks before it, so that each test can run alone.
"""

import importlib.util
import os
import re
import shutil
import subprocess
import sys
import warnings
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
import torchvision
from PIL import Image
from tinydata import write_tiny

ROOT = Path(__file__).parents[1]
CLONE = os.environ.get("TIMM_MOEX_TIMM_CLONE")

SUBSTITUTIONS = {  # what is printed → what is run here
    # timm's own weights come from the Hub, which tests do not reach. The tag stays.
    '"moex_resnet50.a1_in1k", pretrained=True': '"moex_resnet50.a1_in1k"',
    # 128 + 20 images and one epoch in place of 6,000 + 1,000 images and five epochs
    '"$(timm-moex sample)"': "tiny",
    "train quickstart": "train quickstart --set epochs=1 warmup_epochs=0",
    # what `make quickstart` trains, without its virtual environment
    "make quickstart ": "timm-moex train quickstart --set epochs=1 warmup_epochs=0 --in-memory --data-dir tiny ",
    # eight images of noise in two classes, one epoch of two steps
    "/path/to/imagenet": "imagenet",
    "--epochs 300": "--epochs 1 --img-size 32 --batch-size 4 --workers 1 --device cpu --output output/stock",
}
NOT_RUN = {"make test": "it starts this test"}  # a line of a block → why it is left out
# the extra [examples], absent from the test environment
HEAVY = ("accelerate", "fastai", "lightning", "segmentation_models_pytorch", "transformers")


@dataclass(frozen=True)
class Block:
    page: Path
    number: int
    language: str
    code: str
    marked: str | None  # "<!-- not run: reason -->" on the line above

    @property
    def name(self) -> str:
        words = re.sub(r"[^a-z0-9_]+", "-", self.code.split("#")[0].strip()[:40])
        return f"{self.page.stem}-{self.number}-{self.language}-{words}"


def blocks_of(page: Path) -> list[Block]:
    pattern = r"(?:^<!-- not run: ([^\n]+) -->\n)?^```(.*?)\n(.*?)^```$"
    found = re.findall(pattern, page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    return [Block(page, n, language.strip(), code, why or None) for n, (why, language, code) in enumerate(found)]


PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
OTHER_PAGES = ("CHANGELOG.md", "CONTRIBUTING.md", "benchmarks/README.md")
BLOCKS = [block for page in PAGES for block in blocks_of(page) if block.language]


def reason_not_to_run(block: Block) -> str | None:
    if block.marked:
        return block.marked
    if "train.py" in block.code and not CLONE:
        return "no train.py: TIMM_MOEX_TIMM_CLONE names no clone of timm"
    absent = [name for name in HEAVY if re.search(rf"^(from|import) {name}\b", block.code, re.MULTILINE)]
    absent = [name for name in absent if importlib.util.find_spec(name) is None]
    return f"needs {absent[0]}, of the extra [examples]" if absent else None


def as_run(code: str) -> str:
    for printed, run in SUBSTITUTIONS.items():
        code = code.replace(printed, run)
    return "".join(line for line in code.splitlines(True) if not line.startswith(tuple(NOT_RUN)))


def write_images(root: Path) -> None:
    for split in ("train", "validation"):
        for name in ("cat", "dog"):
            (root / split / name).mkdir(parents=True)
            for n in range(4):
                pixels = torch.randint(0, 256, (40, 40, 3), dtype=torch.uint8)
                Image.fromarray(pixels.numpy()).save(root / split / name / f"{n}.png")


class Reader:
    """Runs the page's blocks in a folder that contains what a reader is expected to have."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.done = folder, 0
        write_tiny(folder / "tiny", train=128)
        write_images(folder / "imagenet")
        recipe = (ROOT / "timm_moex/training/recipes/quickstart.yaml").read_text()
        (folder / "my_recipe.yaml").write_text(f"{recipe}\ndata_dir: tiny\n".replace("epochs: 5", "epochs: 2"))
        state = {f"module.{key}": value for key, value in torchvision.models.resnet50().state_dict().items()}
        torch.save({"epoch": 300, "arch": "moex_resnet50", "state_dict": state}, folder / "checkpoint.pth")
        if CLONE:
            shutil.copy(Path(CLONE) / "train.py", folder / "train.py")
        (folder / "bin").mkdir()
        for command, words in (("timm-moex", "-m timm_moex "), ("python", "")):
            script = folder / "bin" / command
            script.write_text(f'#!/bin/sh\nexec "{sys.executable}" {words}"$@"\n')
            script.chmod(0o755)

    def run(self, block: Block) -> None:
        if reason_not_to_run(block):
            return
        self.run_python(block) if block.language == "python" else self.run_shell(block)

    def run_python(self, block: Block) -> None:
        before = Path.cwd()
        os.chdir(self.folder)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error", UserWarning)
                warnings.filterwarnings("ignore", module=r"torch\.optim")  # torch 2.8's LBFGS warns about every loss
                exec(compile(as_run(block.code), f"{block.page.name}, block {block.number}", "exec"), {})
        finally:
            os.chdir(before)

    def run_shell(self, block: Block) -> None:
        paths = {"PATH": f"{self.folder / 'bin'}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", as_run(block.code)],
            cwd=self.folder,
            env={**os.environ, **paths},
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert done.returncode == 0, f"{as_run(block.code)}\n{done.stdout}\n{done.stderr}"

    def read_to(self, block: Block) -> None:
        """Run every block up to this one that has not run yet."""
        blocks = [other for other in BLOCKS if other.page == block.page]
        for earlier in blocks[self.done : blocks.index(block) + 1]:
            self.run(earlier)
            self.done += 1


@pytest.fixture(scope="module")
def readers(tmp_path_factory):
    """A reader for each page, who starts with its first block."""
    return {page: Reader(tmp_path_factory.mktemp(page.stem)) for page in {block.page for block in BLOCKS}}


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: block.name)
def test_block_of_the_page_runs(block, readers):
    if reason := reason_not_to_run(block):
        pytest.skip(reason)
    readers[block.page].read_to(block)


def test_blocks_without_a_language_contain_no_commands():
    others = [block for page in PAGES for block in blocks_of(page) if not block.language]
    assert [block.code.split()[0] for block in others] == ["timm_moex/"]  # the folders of the repository
    assert {block.language for block in BLOCKS} == {"python", "bash"}


def test_every_substitution_and_every_line_left_out_is_in_a_page():
    printed = "".join(block.code for block in BLOCKS)
    assert all(text in printed for text in [*SUBSTITUTIONS, *NOT_RUN])


def test_make_quickstart_trains_with_the_recipe_that_replaces_it_here():
    rule = (ROOT / "Makefile").read_text().split("\nquickstart:")[1].split("\n\n")[0]
    assert (
        "/timm-moex train quickstart --in-memory" in rule
        and "RUN := output/quickstart\n" in (ROOT / "Makefile").read_text()
    )


def anchors_of(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub and MkDocs name them."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize(
    "page", [*PAGES, *map(ROOT.joinpath, OTHER_PAGES)], ids=lambda page: str(page.relative_to(ROOT))
)
def test_page_links_to_pages_and_headings_that_exist(page):
    for link, anchor in re.findall(r"\]\((?!https?:)([^)#\s]*)#?([^)\s]*)\)", page.read_text(encoding="utf-8")):
        target = page.parent / link if link else page
        assert target.exists(), link
        assert not anchor or anchor in anchors_of(target), f"{link}#{anchor}"


def test_navigation_names_every_page():
    nav = (ROOT / "mkdocs.yml").read_text(encoding="utf-8").split("\nnav:")[1]
    assert sorted(re.findall(r": (\w+\.md)$", nav, re.MULTILINE)) == sorted(p.name for p in PAGES[1:])
