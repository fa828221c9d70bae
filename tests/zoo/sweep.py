"""Check for every timm architecture and site that a twin exists and its exchange fires exactly once.

`python tests/zoo/sweep.py` writes a row per architecture to benchmarks/results/zoo.csv, in half an hour; with
`--filter PATTERN` it writes matching ones to output/zoo.csv. Forward passes are on the meta device, in training
mode, with a batch of 2 at the architecture's own input size, so that no model is too large; all sites of a model
exchange in one pass. Checks that need values run once per model class, on the small model of that class in
`tests/zoo/small.py`.
"""

import argparse
import csv
import sys
import time
import warnings
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from unittest.mock import patch

import timm
import torch
import torch.nn.functional as F
from timm.models import list_models
from torch import nn

from timm_moex import find_moex, insert_moex, moex_sites, remove_moex
from timm_moex.insertion.forwards import Forward
from timm_moex.insertion.request import Exchange
from timm_moex.insertion.sites import family_of

__all__ = ["Row", "architectures", "sweep"]


@dataclass
class Row:
    """One line of `zoo.csv`.

    Args:
        arch, model_class, family, params: timm's name, class and module, and the number of parameters.
        site, norm, layout: The default site, its norm and the layout of the features there.
        fires: Sites whose exchange fired exactly once / all sites.
        fires_ckpt: Likewise under gradient checkpointing; `-` if timm has none for the class.
        axis: Sites whose channel axis has the length `feature_info` names / sites it names.
        keys_equal: Whether the twin's `state_dict` keys are the backbone's.
        eval_equal: Whether the twin's class, with values, computes what the backbone does in evaluation, bit for bit.
        effect: Change of the class's logits by the default exchange, relative to their norm.
        outcome: `ok` or `failed`.
        note: Why it failed.
        timm, torch: Versions.
    """

    arch: str
    model_class: str = ""
    family: str = ""
    params: int = 0
    site: str = ""
    norm: str = ""
    layout: str = ""
    fires: str = ""
    fires_ckpt: str = ""
    axis: str = ""
    keys_equal: bool = False
    eval_equal: str = ""
    effect: str = ""
    outcome: str = "failed"
    note: str = ""
    timm: str = timm.__version__
    torch: str = torch.__version__


def architectures(pattern: str = "") -> list[str]:
    """timm's own architectures, without twins and without the backbones that timm_moex registers."""
    return [arch for arch in list_models(pattern, exclude_filters="moex_*") if not _is_ours(arch)]


def _is_ours(arch: str) -> bool:
    return timm.model_entrypoint(arch).__module__.startswith("timm_moex")


def _unchanged(x: torch.Tensor, *args, **kwargs) -> torch.Tensor:
    """Stands in for the norms, whose shape functions, written in Python, take most of the time on the meta device."""
    return x


def _fire_all(model: nn.Module, x: torch.Tensor, swap_index: torch.Tensor) -> dict[str, list[tuple[int, ...]]]:
    """One forward in which all sites exchange; raises unless each does so once. The shapes exchanged, by site."""
    moex = find_moex(model)
    shapes: dict[str, list[tuple[int, ...]]] = {name: [] for name in moex.site_names}

    def note_shape(exchange, args):
        shapes[exchange.site.name].append(tuple(args[0].shape))

    handles = [exchange.register_forward_pre_hook(note_shape) for exchange in moex.sites]
    forward = Forward(moex, {name: Exchange(swap_index, None) for name in moex.site_names}, is_body=True)

    def exchange_everywhere(moex, name, module, x):
        forward.times_exchanged[name] += 1
        return forward

    with patch.object(F, "batch_norm", _unchanged), patch.object(F, "layer_norm", _unchanged):
        with patch("timm_moex.insertion.site_exchange.forward_at", exchange_everywhere):
            model(x, swap_index=None)
    for handle in handles:
        handle.remove()
    forward.check_exchanged_once()
    return shapes


def _checkpointing(model: nn.Module) -> bool:
    try:
        model.set_grad_checkpointing(True)
    except (AssertionError, AttributeError):
        return False
    return True


def _check_axes(model: nn.Module, shapes: dict[str, list[tuple[int, ...]]]) -> str:
    info = getattr(model, "feature_info", None) or []
    channels = {entry["module"]: entry["num_chs"] for entry in getattr(info, "info", info)}
    sites = [site for site in moex_sites(model).values() if site.hook_on == "output" and site.module in channels]
    known = [site for site in sites if site.tuple_entries in (None, slice(1))]  # else feature_info means another entry
    right = [site for site in known if shapes[site.name][0][site.channel_dim] == channels[site.module]]
    wrong = [site.name for site in known if site not in right]
    if wrong:
        raise ValueError(f"channel axis of {', '.join(wrong)} is not what feature_info says")
    return f"{len(right)}/{len(known)}"


def sweep(arch: str) -> Row:
    """Create the twin of one architecture on the meta device and fire all its sites; failures are in the row's note."""
    row = Row(arch)
    try:
        _sweep(row)
        row.outcome = "ok"
    except Exception as error:  # a sweep reports every failure and continues
        row.note = f"{type(error).__name__}: {str(error).splitlines()[0]}"
    return row


def _sweep(row: Row) -> None:
    with torch.device("meta"):
        model = timm.create_model(f"moex_{row.arch}")
        x = torch.zeros(2, *model.pretrained_cfg["input_size"])
        swap_index = torch.zeros(2, dtype=torch.int64)
    row.model_class, row.family = type(model).__name__, type(model).__module__.rpartition(".")[2]
    row.params = sum(param.numel() for param in model.parameters())
    exchange = find_moex(model).sites[0]
    row.site, row.norm, row.layout = exchange.site.name, exchange.norm, exchange.site.layout
    if family_of(model) is None:
        raise ValueError(f"class {row.model_class} is not in the table of sites")
    keys = list(model.state_dict())
    remove_moex(model)
    row.keys_equal = keys == list(model.state_dict())
    sites = list(moex_sites(model))
    insert_moex(model, sites).train()
    with torch.no_grad():
        shapes = _fire_all(model, x, swap_index)
    row.fires = f"{len(sites)}/{len(sites)}"
    row.axis = _check_axes(model, shapes)
    row.fires_ckpt = "-"
    if _checkpointing(model):
        _fire_all(model, x, swap_index)
        row.fires_ckpt = row.fires


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--filter", default="", help="only architectures that match, e.g. '*vit*'")
    parser.add_argument("--out", type=Path, help="default: benchmarks/results/zoo.csv, with --filter output/zoo.csv")
    args = parser.parse_args()
    out = args.out or Path("output/zoo.csv" if args.filter else "benchmarks/results/zoo.csv")
    out.parent.mkdir(parents=True, exist_ok=True)
    warnings.filterwarnings("ignore")
    from small import class_facts

    facts: dict[str, tuple[str, str]] = {}
    start, failed = time.time(), 0
    archs = architectures(args.filter)
    with out.open("w", newline="") as file:
        writer = csv.DictWriter(file, [field.name for field in fields(Row)])
        writer.writeheader()
        for number, arch in enumerate(archs, start=1):
            row = sweep(arch)
            if row.outcome == "ok":
                if row.model_class not in facts:
                    facts[row.model_class] = class_facts(row.model_class)
                row.eval_equal, row.effect = facts[row.model_class]
            failed += row.outcome != "ok"
            writer.writerow(asdict(row))
            file.flush()
            if row.note or number % 50 == 0:
                minutes = (time.time() - start) / 60
                print(f"{number}/{len(archs)} {minutes:.1f} min {arch} {row.note}", file=sys.stderr, flush=True)
    print(f"timm {timm.__version__}: {len(archs)} architectures, {len(archs) - failed} ok, {failed} failed")


if __name__ == "__main__":
    main()
