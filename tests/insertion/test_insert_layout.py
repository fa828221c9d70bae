"""If a module's class determines its layout, `insert_moex` needs no `channel_dim` and rejects a wrong one."""

import pytest
import timm
import torch
from architectures import images
from torch import nn

from timm_moex import find_moex, insert_moex, moment_exchange

IDX = torch.tensor([1, 2, 0])


@torch.no_grad()
def test_a_block_of_2d_layers_needs_no_channel_dim():
    torchvision = pytest.importorskip("torchvision")
    net = insert_moex(torchvision.models.resnet18(num_classes=10), "layer1", norm="pono").eval()
    (exchange,) = find_moex(net).sites
    assert (exchange.channel_dim, exchange.norm) == (1, "pono")
    x, seen = images("resnet10t"), []
    net.layer2.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    plain, exchanged = net(x), net(x, swap_index=IDX)
    assert not torch.equal(plain, exchanged)
    torch.testing.assert_close(seen[1], moment_exchange(seen[0], IDX))
    sure = insert_moex(nn.Sequential(nn.Conv2d(3, 8, 1), nn.ReLU(), nn.BatchNorm2d(8)), "0")
    assert find_moex(sure).sites[0].site.channels is None


def test_a_block_whose_channels_could_be_another_axis_is_refused():
    class Turned(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 8, 1)

        def forward(self, x):
            return self.conv(x).permute(0, 2, 3, 1)

    net = insert_moex(nn.Sequential(Turned(), nn.Identity()), "0")
    with pytest.raises(ValueError, match="ambiguous.*channel_dim=1 or -1"):
        net(torch.randn(3, 3, 5, 5), swap_index=IDX)
    given = insert_moex(nn.Sequential(Turned(), nn.Identity()), "0", channel_dim=-1)
    assert given(torch.randn(3, 3, 5, 5), swap_index=IDX).shape == (3, 5, 5, 8)
    with pytest.raises(ValueError, match="channel_dim=-1: the output of 0.*is NCHW"):
        insert_moex(nn.Sequential(nn.Conv2d(3, 8, 1)), "0", channel_dim=-1)


@pytest.mark.parametrize("arch", ["resnet10t", "mobilenetv3_small_050", "test_convnext", "test_vit"])
@pytest.mark.parametrize("site", ["stem", "stage1"])
def test_stages_of_a_feature_extractor_mean_those_of_its_architecture_or_nothing(arch, site):
    twin = timm.create_model(f"moex_{arch}", features_only=True, moex_layer=site)
    whole = timm.create_model(f"moex_{arch}", moex_layer=site)
    assert [site.site for site in find_moex(twin).sites] == [site.site for site in find_moex(whole).sites]
    with pytest.raises(ValueError, match=f"layer='{site}' is not a site.*create the extractor as a twin"):
        insert_moex(timm.create_model(arch, features_only=True), site)


def test_tokens_behind_a_convolution_need_a_channel_dim_which_decides():
    class PatchEmbeddings(nn.Module):
        def __init__(self):
            super().__init__()
            self.projection = nn.Conv2d(3, 8, 4, stride=4)

        def forward(self, x):
            return self.projection(x).flatten(2).transpose(1, 2)

    x = torch.randn(3, 3, 16, 16)
    with pytest.raises(ValueError, match="is not NCHW.*pass channel_dim=1 or -1"):
        insert_moex(nn.Sequential(PatchEmbeddings()), "0")(x, swap_index=IDX)
    given = insert_moex(nn.Sequential(PatchEmbeddings()), "0", channel_dim=-1, norm="pono").eval()
    torch.testing.assert_close(given(x, swap_index=IDX), moment_exchange(given(x), IDX, channel_dim=-1))


def test_no_empty_list_of_sites_is_offered():
    with pytest.raises(ValueError, match="expected the dotted path of a module"):
        insert_moex(nn.Sequential(nn.Linear(3, 3)), "stage1")
    with pytest.raises(ValueError, match="pass channel_dim=1 or -1 to insert_moex$"):
        insert_moex(nn.Sequential(nn.Linear(3, 3)), "0")
