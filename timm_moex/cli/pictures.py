"""`timm-moex show` and `timm-moex curves`: draw an exchange, and draw training runs."""

import argparse
from typing import Any

from .options import add_command
from .outputs import add_output, check_picture

__all__ = ["add_curves", "add_show"]

_DEFAULT_MODEL = "resnet20_cifar.fmnist_sample"


def add_show(commands: Any) -> None:
    """Add `show`."""
    parser = add_command(
        commands,
        "show",
        "draw what an exchange does to two images",
        "timm-moex show sample:0 sample:17",
        "timm-moex show cat.jpg dog.jpg --model resnet50.a1_in1k --norm in --output exchange.png",
        description="Draw images A and B, their moments at the site, the features of A before and after they take on "
        "B's moments, and how the prediction changes.",
    )
    parser.add_argument("image_a", metavar="IMAGE_A", help="a file, or sample:N for a packaged Fashion-MNIST image")
    parser.add_argument("image_b", metavar="IMAGE_B", help="the same, for the image whose moments A takes on")
    parser.add_argument(
        "--model",
        default=_DEFAULT_MODEL,
        metavar="NAME",
        help=f"a folder that timm can load (…/hub), or a model with weights (default: {_DEFAULT_MODEL})",
    )
    parser.add_argument(
        "--layer", metavar="SITE", help="site of the exchange, see timm-moex sites (default: the model's)"
    )
    parser.add_argument("--norm", help="which moments: pono, in, ln, gn4, … (default: the site's)")
    add_output(parser, "--output", default="exchange.png", metavar="FILE", help="default: exchange.png")
    parser.set_defaults(run=_run_show)


def _run_show(args: argparse.Namespace) -> None:
    import torch
    from timm.data import resolve_data_config

    from ..hub.folder import load_model
    from ..insertion.find import find_moex
    from ..insertion.insert import insert_moex, remove_moex
    from ..insertion.pair import exchange_pair
    from ..pictures.exchange import plot_exchange
    from ..pictures.inputs import class_names, open_image, prepare_image, undo_normalisation
    from ..training.inference import timm_name

    check_picture(args, "show", [args.image_a, args.image_b, args.model])
    if args.image_a == args.image_b:
        raise ValueError(f"IMAGE_A and IMAGE_B are both {args.image_a}: exchanging an image with itself has no effect")
    pictures = [open_image(word) for word in (args.image_a, args.image_b)]
    model = load_model(timm_name(args.model))
    if find_moex(model):
        remove_moex(model)
    insert_moex(model, args.layer, norm=args.norm)
    data_config = resolve_data_config({}, model=model)
    images = torch.stack([prepare_image(picture, data_config) for picture in pictures])
    pair = exchange_pair(model, images)
    looks = undo_normalisation(images, data_config)
    print(plot_exchange(pair, looks, class_names(model), args.output, title=args.model))


def add_curves(commands: Any) -> None:
    """Add `curves`."""
    parser = add_command(
        commands,
        "curves",
        "draw loss, top-1 and the share of exchanged batches of training runs",
        "timm-moex curves output/baseline output/moex --output curves.png",
    )
    parser.add_argument("runs", nargs="+", metavar="RUN", help="a run folder of timm-moex train or timm's train.py")
    add_output(parser, "--output", default="curves.png", metavar="FILE", help="default: curves.png")
    parser.set_defaults(run=_run_curves)


def _run_curves(args: argparse.Namespace) -> None:
    from ..pictures.curves import plot_curves, read_curves

    check_picture(args, "curves")
    print(plot_curves(read_curves(args.runs), args.output))
