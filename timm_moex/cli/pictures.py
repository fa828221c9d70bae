"""`timm-moex show` and `timm-moex curves`: draw an exchange, and draw training runs."""

from collections.abc import Iterable

from .options import check_output, command, option, output_options

__all__ = ["check_picture", "curves", "show"]

_DEFAULT_MODEL = "resnet20_cifar.fmnist_sample"


@command(
    "show",
    option("image_a", metavar="IMAGE_A", help="a file, or sample:N for a packaged Fashion-MNIST image"),
    option("image_b", metavar="IMAGE_B", help="the image whose moments A takes on, given in the same way"),
    option(
        "--model",
        default=_DEFAULT_MODEL,
        metavar="NAME",
        help=f"a folder that timm can load (…/hub), or a model with weights (default: {_DEFAULT_MODEL})",
    ),
    option("--layer", metavar="SITE", help="site of the exchange, see timm-moex sites (default: the model's)"),
    option("--norm", help="axes of the moments: pono, in, ln, gn4, … (default: the site's)"),
    *output_options("--output", default="exchange.png", metavar="FILE", help="picture (default: exchange.png)"),
    examples=[
        "timm-moex show sample:0 sample:17",
        "timm-moex show cat.jpg dog.jpg --model resnet50.a1_in1k --norm in --output exchange.png",
    ],
)
def show(
    image_a: str, image_b: str, model: str, layer: str | None, norm: str | None, output: str, overwrite: bool
) -> None:
    """Draw what an exchange does to two images.

    The picture shows images A and B, their moments at the site, the features of A before and after they take on B's
    moments, and how the prediction changes.
    """
    import torch
    from timm.data import resolve_data_config

    from ..hub.folder import load_model
    from ..insertion.find import find_moex
    from ..insertion.insert import insert_moex, remove_moex
    from ..insertion.pair import exchange_pair
    from ..pictures.exchange import plot_exchange
    from ..pictures.inputs import class_names, open_image, prepare_image, undo_normalisation
    from ..training.inference import timm_name

    check_picture("show", output, overwrite, [image_a, image_b, model])
    if image_a == image_b:
        raise ValueError(f"IMAGE_A and IMAGE_B are both {image_a}: exchanging an image with itself has no effect")
    pictures = [open_image(word) for word in (image_a, image_b)]
    loaded = load_model(timm_name(model))
    if find_moex(loaded):
        remove_moex(loaded)
    insert_moex(loaded, layer, norm=norm)
    data_config = resolve_data_config({}, model=loaded)
    images = torch.stack([prepare_image(picture, data_config) for picture in pictures])
    looks = undo_normalisation(images, data_config)
    print(plot_exchange(exchange_pair(loaded, images), looks, class_names(loaded), output, title=model))


@command(
    "curves",
    option("runs", nargs="+", metavar="RUN", help="a run folder of timm-moex train or timm's train.py"),
    *output_options("--output", default="curves.png", metavar="FILE", help="picture (default: curves.png)"),
    examples=["timm-moex curves output/baseline output/moex --output curves.png"],
)
def curves(runs: list[str], output: str, overwrite: bool) -> None:
    """Draw loss, top-1 and the share of exchanged batches of training runs."""
    from ..pictures.curves import plot_curves, read_curves

    check_picture("curves", output, overwrite)
    print(plot_curves(read_curves(runs), output))


def check_picture(name: str, output: str, overwrite: bool, inputs: Iterable[str | None] = ()) -> None:
    """Check that the subcommand `name` can write its picture, and that this destroys nothing."""
    from ..pictures.figure import check_picture_path, is_picture_by

    check_picture_path(output)
    check_output("--output", output, overwrite, inputs, lambda file: is_picture_by(file, f"timm-moex {name}"))
