"""Models and settings that do not support MoEx are rejected with their name, and the model is left unchanged."""

import pytest
import timm
import torch
from torch import nn

from timm_moex import find_moex, insert_moex, remove_moex


def resnet(**kwargs):
    return timm.create_model("resnet10t", num_classes=10, **kwargs)


REFUSED = {
    "unknown layer": (dict(layer="stage9"), ValueError, "stem, stage1, stage2, stage3, stage4.*did you mean 'stage"),
    "same layer twice": (dict(layer=("stage1", "C2")), ValueError, "one or more layers, each once"),
    "no layer": (dict(layer=()), ValueError, "one or more"),
    "norm": (dict(norm="bn"), ValueError, "shares its moments"),
    "lam": (dict(lam=1.5), ValueError, "lam=1.5"),
    "prob": (dict(prob="0.5"), ValueError, "prob='0.5'"),
    "eps": (dict(eps="1e-5"), ValueError, "eps='1e-5'"),
    "moments": (dict(moments="mean,std"), ValueError, "moments="),
    "positive_only": (dict(positive_only="no"), ValueError, "positive_only='no'"),
    "channel_dim": (dict(channel_dim=2), ValueError, "channel_dim=2"),
    "typo": (dict(lamb=0.9), TypeError, "lamb"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_bad_settings_are_refused_and_leave_the_model_alone(case):
    kwargs, error, message = REFUSED[case]
    model = resnet()
    with pytest.raises(error, match=message):
        insert_moex(model, **kwargs)
    assert find_moex(model) is None and not hasattr(model, "moex")


def test_wrong_models_are_refused():
    with pytest.raises(TypeError, match="got str"):
        insert_moex("resnet18")
    with pytest.raises(ValueError, match="already has MoEx"):
        insert_moex(insert_moex(resnet()))
    with pytest.raises(TypeError, match="OptimizedModule"):
        insert_moex(torch.compile(resnet()))
    with pytest.raises(TypeError, match="DataParallel"):
        insert_moex(nn.DataParallel(resnet()))
    with pytest.raises(TypeError, match="TorchScript"):
        insert_moex(torch.jit.script(resnet()))
    with pytest.raises(ValueError, match="has no MoEx"):
        remove_moex(resnet())
    with pytest.raises(ValueError, match="no default layer for .*; pass layer= and channel_dim="):
        insert_moex(nn.Sequential(nn.Linear(2, 2)))
