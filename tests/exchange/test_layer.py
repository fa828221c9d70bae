"""`MomentExchange` equals `moment_exchange` with fixed settings, which it checks."""

import pytest
import torch

from timm_moex import MomentExchange, moment_exchange


def test_module_calls_the_function_with_its_settings():
    x, index = torch.randn(3, 5, 5, 8), torch.tensor([1, 2, 0])
    settings = dict(norm="gn2", eps=1e-3, positive_only=True, moments="std", channel_dim=-1)
    module = MomentExchange(**settings)
    assert torch.equal(module(x, index), moment_exchange(x, index, **settings))
    assert not list(module.parameters()) and not module.state_dict()
    for name, value in settings.items():
        assert f"{name}={value!r}" in repr(module)


@pytest.mark.parametrize(
    "settings",
    [dict(norm="batch"), dict(eps=-1), dict(eps=True), dict(moments="all"), dict(positive_only=1), dict(channel_dim=2)],
    ids=str,
)
def test_bad_settings_are_refused_by_name(settings):
    with pytest.raises(ValueError, match=f"{next(iter(settings))}="):
        MomentExchange(**settings)
