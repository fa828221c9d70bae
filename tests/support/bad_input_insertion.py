"""Wrong uses of the exchange, of its insertion and of the task, each with the expected error."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import timm
import torch
from torch import nn

import timm_moex
from timm_moex import (
    MoExTask,
    MomentExchange,
    create_task,
    draw_swap_index,
    exchanging,
    find_moex,
    insert_moex,
    mix_loss,
    moment_exchange,
    register_twin,
    remove_moex,
)

Case = tuple[str, Callable[[Path], Any], type[Exception], tuple[str, ...]]

X = torch.zeros(3, 4, 5, 5)
IDX = torch.tensor([1, 2, 0])


def _exchange(x: Any = X, swap_index: Any = IDX, **settings: Any) -> Callable[[Path], Any]:
    return lambda tmp_path: moment_exchange(x, swap_index, **settings)


def _insert(*args: Any, **settings: Any) -> Callable[[Path], Any]:
    return lambda tmp_path: insert_moex(timm.create_model("resnet10t"), *args, **settings)


def _create(name: str = "moex_resnet10t", **settings: Any) -> Callable[[Path], Any]:
    return lambda tmp_path: timm.create_model(name, **settings)


def _call(layer: Any = None, **arguments: Any) -> Callable[[Path], Any]:
    model_args = {} if layer is None else {"moex_layer": layer}
    return lambda tmp_path: timm.create_model("moex_resnet10t", **model_args)(torch.zeros(3, 3, 32, 32), **arguments)


def _mix(swap_index: Any = IDX, lam: Any = 0.9) -> Callable[[Path], Any]:
    return lambda tmp_path: mix_loss(nn.functional.mse_loss, torch.zeros(3, 2), torch.zeros(3, 2), swap_index, lam)


def _enter(make: Callable[[], nn.Module], *args: Any) -> Callable[[Path], Any]:
    def run(tmp_path: Path) -> None:
        with exchanging(make(), *args):
            pass

    return run


def _twins() -> nn.Module:
    return nn.ModuleDict({name: timm.create_model("moex_resnet10t") for name in ("student", "teacher")})


def _twin() -> nn.Module:
    return timm.create_model("moex_resnet10t")


def _plain() -> nn.Module:
    return timm.create_model("resnet10t")


CASES: list[Case] = [
    # The operator
    ("x of integers", _exchange(X.long()), TypeError, ("x", "floating point", "int64")),
    ("x of one dimension", _exchange(X[0, 0, 0]), ValueError, ("x", "2 to 5 dimensions", "(5,)")),
    ("norm misspelt", _exchange(norm="pno"), ValueError, ("norm='pno'", "did you mean 'pono'")),
    ("norm bn", _exchange(norm="bn"), ValueError, ("norm='bn'", "shares its moments")),
    ("norm empty", _exchange(norm=""), ValueError, ("norm=''", "pono")),
    ("norm of zero groups", _exchange(norm="gn0"), ValueError, ("norm='gn0'", "unknown")),
    ("norm that does not divide", _exchange(norm="gn3"), ValueError, ("norm='gn3'", "4 channels", "3 groups")),
    ("norm over one element", _exchange(X[:, :1]), ValueError, ("norm='pono'", "single element")),
    ("eps infinite", _exchange(eps=math.inf), ValueError, ("eps=inf", "finite")),
    ("eps nan", _exchange(eps=math.nan), ValueError, ("eps=nan", "finite")),
    ("eps negative", _exchange(eps=-1e-5), ValueError, ("eps=-1e-05", ">= 0")),
    ("eps a string", _exchange(eps="1e-5"), ValueError, ("eps='1e-5'", "number")),
    (
        "positive_only a string",
        _exchange(positive_only="False"),
        ValueError,
        ("positive_only='False'", "True or False"),
    ),
    ("moments misspelt", _exchange(moments="means"), ValueError, ("moments='means'", "did you mean 'mean'")),
    ("channel_dim in between", _exchange(channel_dim=2), ValueError, ("channel_dim=2", "1 or -1")),
    ("backend of old", _exchange(backend="fused"), ValueError, ("backend='fused'", "closed_form")),
    ("swap_index a list", _exchange(swap_index=[1, 2, 0]), TypeError, ("swap_index", "int64", "list")),
    ("swap_index of floats", _exchange(swap_index=IDX.float()), TypeError, ("swap_index", "int64", "float32")),
    ("swap_index too short", _exchange(swap_index=IDX[:2]), ValueError, ("swap_index", "(3,)", "(2,)")),
    ("swap_index a matrix", _exchange(swap_index=IDX[None]), ValueError, ("swap_index", "(3,)", "(1, 3)")),
    ("swap_index negative", _exchange(swap_index=IDX - 1), IndexError, ("swap_index", "-1..1", "[0, 3)")),
    ("swap_index too large", _exchange(swap_index=IDX + 1), IndexError, ("swap_index", "1..3", "[0, 3)")),
    (
        "swap_index a parameter",
        _exchange(swap_index=nn.Parameter(IDX - 1, requires_grad=False)),
        IndexError,
        ("swap_index", "-1..1"),
    ),
    ("layer norm bn", lambda tmp_path: MomentExchange(norm="batchnorm"), ValueError, ("norm='batchnorm'", "shares")),
    ("layer eps infinite", lambda tmp_path: MomentExchange(eps=math.inf), ValueError, ("eps=inf", "finite")),
    ("layer channel_dim", lambda tmp_path: MomentExchange(channel_dim=3), ValueError, ("channel_dim=3", "1 or -1")),
    # Insertion
    ("insert into a name", lambda tmp_path: insert_moex("resnet18"), TypeError, ("model", "nn.Module", "str")),  # type: ignore[arg-type]
    ("insert twice", lambda tmp_path: insert_moex(_twin()), ValueError, ("already has MoEx", "remove_moex")),
    (
        "insert around a twin",
        lambda tmp_path: insert_moex(nn.Sequential(_twin()), "0", channel_dim=1),
        ValueError,
        ("already has MoEx",),
    ),
    (
        "insert into DataParallel",
        lambda t: insert_moex(nn.DataParallel(_plain())),
        TypeError,
        ("wrapped", "DataParallel"),
    ),
    ("insert into a compiled model", lambda t: insert_moex(torch.compile(_plain())), TypeError, ("wrapped", "bare")),
    (
        "insert into the unknown",
        lambda t: insert_moex(nn.Sequential(nn.Identity())),
        ValueError,
        ("layer=", "channel_dim="),
    ),
    ("remove what is not there", lambda tmp_path: remove_moex(_plain()), ValueError, ("ResNet", "has no MoEx")),
    ("layer misspelt", _insert("stage11"), ValueError, ("layer='stage11'", "did you mean 'stage1'")),
    ("layer empty", _insert(()), ValueError, ("layer=()", "one or more")),
    ("layer twice", _insert(("stage1", "C2")), ValueError, ("layer=('stage1', 'C2')", "each once")),
    ("layer with another axis", _insert("layer1", channel_dim=-1), ValueError, ("channel_dim=-1", "layer1", "NCHW")),
    ("site with another axis", _insert("stem", channel_dim=-1), ValueError, ("channel_dim=-1", "stem", "NCHW")),
    ("lam above one", _insert(lam=1.5), ValueError, ("lam=1.5", "[0, 1]")),
    ("lam nan", _insert(lam=math.nan), ValueError, ("lam=nan", "[0, 1]")),
    ("prob a string", _insert(prob="0.5"), ValueError, ("prob='0.5'", "[0, 1]")),
    ("insert norm empty", _insert(norm=""), ValueError, ("norm=''", "pono")),
    ("insert positive_only", _insert(positive_only=1), ValueError, ("positive_only=1", "True or False")),
    # Twins
    ("moex_norm empty", _create(moex_norm=""), ValueError, ("norm=''", "pono")),
    ("moex_eps infinite", _create(moex_eps=math.inf), ValueError, ("eps=inf", "finite")),
    ("moex_positive_only a string", _create(moex_positive_only="False"), ValueError, ("positive_only='False'",)),
    (
        "moex_ keyword misspelt",
        _create(moex_probability=1.0),
        TypeError,
        ("moex_probability", "did you mean 'moex_prob'"),
    ),
    ("scriptable with settings", _create(scriptable=True, moex_prob=0.5), ValueError, ("scriptable=True", "moex_prob")),
    (
        "features without the site",
        _create(features_only=True, out_indices=(0, 1), moex_layer="stage4"),
        ValueError,
        ("layer='stage4'", "FeatureListNet", "out_indices"),
    ),
    (
        "twin of a twin",
        lambda tmp_path: register_twin("moex_resnet18"),
        ValueError,
        ("moex_resnet18", "already a twin"),
    ),
    ("twin of nothing", lambda tmp_path: register_twin("resnet181"), ValueError, ("resnet181", "did you mean")),
    # Calls
    ("call with a list", _call(swap_index=[1, 2, 0]), TypeError, ("swap_index", "int64", "list")),
    ("call with a short index", _call(swap_index=IDX[:2]), ValueError, ("swap_index", "(3,)", "(2,)")),
    ("call with a layer alone", _call(swap_layer="stem"), ValueError, ("swap_layer='stem'", "without swap_index")),
    (
        "call of an unknown layer",
        _call(swap_index=IDX, swap_layer="stage2"),
        ValueError,
        ("swap_layer='stage2'", "stem"),
    ),
    ("call without a layer", _call(("stem", "C2"), swap_index=IDX), ValueError, ("swap_layer", "stem, stage1")),
    ("body without MoEx", _enter(_plain, IDX), ValueError, ("ResNet", "has no MoEx")),
    ("body of two", _enter(_twins, IDX), ValueError, ("2 MoEx", "student", "teacher")),
    ("body with a list", _enter(_twin, [1, 2, 0]), TypeError, ("swap_index", "int64", "list")),
    ("body of an unknown layer", _enter(_twin, IDX, "stage9"), ValueError, ("swap_layer='stage9'", "stem")),
    ("body that exchanges nothing", _enter(_twin, IDX), RuntimeError, ("stem", "exchanged 0 times")),
    ("find one of two", lambda tmp_path: find_moex(_twins()), ValueError, ("2 MoEx", "student", "teacher")),
    # Loss and task
    ("loss with lam 5", _mix(lam=5), ValueError, ("lam=5", "[0, 1]")),
    ("loss with lam nan", _mix(lam=math.nan), ValueError, ("lam=nan", "[0, 1]")),
    ("loss with lam nan, plain", _mix(None, math.nan), ValueError, ("lam=nan", "[0, 1]")),
    ("loss with a short index", _mix(IDX[:2]), ValueError, ("swap_index", "target", "(3,)", "(2,)")),
    ("loss with a negative index", _mix(IDX - 1), IndexError, ("swap_index", "-1..1")),
    ("loss with a list", _mix([1, 2, 0]), TypeError, ("swap_index", "int64", "list")),
    ("draw of nothing", lambda tmp_path: draw_swap_index(0), ValueError, ("batch_size=0", ">= 1")),
    ("draw of half a sample", lambda tmp_path: draw_swap_index(2.5), ValueError, ("batch_size=2.5", "integer >= 1")),  # type: ignore[arg-type]
    ("draw of True", lambda tmp_path: draw_swap_index(True), ValueError, ("batch_size=True", "integer >= 1")),
    ("draw with prob nan", lambda tmp_path: draw_swap_index(4, math.nan), ValueError, ("prob=nan", "[0, 1]")),
    ("draw with prob a string", lambda t: draw_swap_index(4, "0.5"), ValueError, ("prob='0.5'", "[0, 1]")),  # type: ignore[arg-type]
    ("draw with a seed", lambda t: draw_swap_index(4, 1.0, 3), TypeError, ("generator", "torch.Generator", "int")),  # type: ignore[arg-type]
    ("task without MoEx", lambda tmp_path: MoExTask(_plain()), ValueError, ("ResNet", "has no MoEx")),
    ("task of two", lambda tmp_path: create_task(_twins()), ValueError, ("2 MoEx", "student", "teacher")),
    ("sites of a name", lambda tmp_path: timm_moex.moex_sites("resnet18"), TypeError, ("model", "nn.Module", "str")),  # type: ignore[arg-type]
]
