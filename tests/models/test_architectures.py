"""The backbones match the papers: sizes, depths, blocks, shortcuts."""

import pytest
import timm
import torch
from torch import nn

import timm_moex.models  # noqa: F401
from timm_moex.models.cifar_blocks import PyramidBlock, ZeroPadShortcut
from timm_moex.models.cifar_variants import basic_block

# name, classes, parameters, the same in millions as printed in the literature
PARAMETERS = [
    ("resnet8_cifar", 10, 75_290, "0.08"),
    ("resnet20_cifar", 10, 269_722, "0.27"),
    ("resnet32_cifar", 10, 464_154, "0.46"),
    ("resnet44_cifar", 10, 658_586, "0.66"),
    ("resnet56_cifar", 10, 853_018, "0.85"),
    ("resnet110_cifar", 10, 1_727_962, "1.7"),
    ("densenet_bc100_12_cifar", 10, 769_162, "0.8"),
    ("densenet_bc100_12_cifar", 100, 800_032, "0.8"),
    ("densenet_bc190_40_cifar", 10, 25_624_430, "25.6"),
    ("wrn16_4_cifar", 10, 2_748_890, "2.7"),
    ("wrn28_10_cifar", 10, 36_479_194, "36.5"),
    ("wrn28_10_cifar", 100, 36_536_884, "36.5"),
    ("wrn40_4_cifar", 10, 8_949_210, "8.9"),
    ("resnext29_8x64d_cifar", 10, 34_426_698, "34.4"),
    ("pyramidnet110_a270_cifar", 10, 28_485_477, "28.5"),
    ("pyramidnet200_a240_cifar", 100, 26_844_952, "26.8"),
    ("preact_resnet18_cifar", 10, 11_172_170, "11.2"),
    ("densenet265", 1000, 33_337_704, "33.3"),
]


@pytest.mark.parametrize("name, num_classes, count, printed", PARAMETERS)
def test_parameter_count_is_the_papers(name, num_classes, count, printed):
    model = timm.create_model(name, num_classes=num_classes, device="meta")
    params = sum(p.numel() for p in model.parameters())
    assert params == count
    assert f"{params / 1e6:.{len(printed.partition('.')[2])}f}" == printed


# weighted layers without projections; the WRN paper counts convolutions, projections too, and not the classifier
DEPTHS = [
    ("resnet8_cifar", 8),
    ("resnet20_cifar", 20),
    ("resnet110_cifar", 110),
    ("densenet_bc100_12_cifar", 100),
    ("densenet_bc190_40_cifar", 190),
    ("wrn28_10_cifar", 28),
    ("wrn40_4_cifar", 40),
    ("resnext29_8x64d_cifar", 29),
    ("pyramidnet110_a270_cifar", 110),
    ("pyramidnet200_a240_cifar", 200),
    ("preact_resnet18_cifar", 18),
    ("densenet265", 265),
]


@pytest.mark.parametrize("name, depth", DEPTHS)
def test_depth_is_the_one_in_the_name(name, depth):
    modules = dict(timm.create_model(name, device="meta").named_modules())
    convs = [path for path, m in modules.items() if isinstance(m, nn.Conv2d)]
    if name.startswith("wrn"):
        assert len(convs) == depth
    else:
        assert sum("downsample" not in path for path in convs) + 1 == depth


# features of a (2, 3, 32, 32) batch, stem first
SHAPES = [
    ("resnet20_cifar", [(16, 32), (16, 32), (32, 16), (64, 8)]),
    ("densenet_bc100_12_cifar", [(24, 32), (216, 32), (300, 16), (342, 8)]),
    ("densenet_bc190_40_cifar", [(80, 32), (1320, 32), (1900, 16), (2190, 8)]),
    ("wrn28_10_cifar", [(16, 32), (160, 32), (320, 16), (640, 8)]),
    ("resnext29_8x64d_cifar", [(64, 32), (256, 32), (512, 16), (1024, 8)]),
    ("pyramidnet110_a270_cifar", [(16, 32), (106, 32), (196, 16), (286, 8)]),
    ("pyramidnet200_a240_cifar", [(16, 32), (384, 32), (704, 16), (1024, 8)]),
    ("preact_resnet18_cifar", [(64, 32), (64, 32), (128, 16), (256, 8), (512, 4)]),
]


@pytest.mark.parametrize("name, shapes", SHAPES)
def test_stages_have_the_papers_channels_and_resolution(name, shapes):
    model = timm.create_model(name, device="meta").eval()
    x = torch.empty(2, 3, 32, 32, device="meta")
    features, intermediates = model.forward_intermediates(x)
    assert [tuple(f.shape[1:3]) for f in intermediates] == shapes
    assert [(i["num_chs"], 32 // i["reduction"]) for i in model.feature_info] == shapes
    assert features.shape[1] == model.num_features == shapes[-1][0]
    assert model(x).shape == (2, 10)


def test_option_a_keeps_every_other_pixel_and_appends_zero_channels():
    x = torch.arange(2 * 5 * 4).reshape(1, 2, 5, 4).float()
    y = ZeroPadShortcut(extra_chs=3, stride=2)(x)
    expected = [[[0.0, 2.0], [8.0, 10.0], [16.0, 18.0]], [[20.0, 22.0], [28.0, 30.0], [36.0, 38.0]]]
    assert y[0, :2].tolist() == expected
    assert y.shape == (1, 5, 3, 2) and not y[0, 2:].any()


def test_resnet_has_no_parameters_in_its_shortcuts():
    model = timm.create_model("resnet20_cifar", device="meta")
    assert not [name for name, _ in model.named_parameters() if "downsample" in name]


@pytest.mark.parametrize("stride, size", [(1, 6), (2, 6), (2, 7)])
def test_resnet_block_without_its_branch_is_the_rectified_shortcut(stride, size):
    block = basic_block(4, 8, stride).eval()
    nn.init.zeros_(block.conv2.weight)
    x = torch.randn(2, 4, size, size)
    y = block(x)
    assert torch.equal(y[:, :4], x[:, :, ::stride, ::stride].relu()) and not y[:, 4:].any()


@pytest.mark.parametrize("bottleneck, out_chs", [(False, 5), (True, 20)])
@pytest.mark.parametrize("size", [6, 7])
def test_pyramid_block_without_its_branch_is_the_pooled_padded_input(bottleneck, out_chs, size):
    block = PyramidBlock(4, out_chs, stride=2, bottleneck=bottleneck).eval()
    nn.init.zeros_(block.branch[-2].weight)
    x = torch.randn(2, 4, size, size)
    y = block(x)
    # cells that reach over the border of an odd size average what there is
    cells = [[x[:, :, i : i + 2, j : j + 2].mean((2, 3)) for j in range(0, size, 2)] for i in range(0, size, 2)]
    expected = torch.stack([torch.stack(row, -1) for row in cells], -2)
    torch.testing.assert_close(y[:, :4], expected)
    assert y.shape[1] == out_chs and not y[:, 4:].any()


def test_pyramidnet_enters_its_first_block_without_an_activation():
    model = timm.create_model("pyramidnet110_a270_cifar", depth=8, alpha=6)
    seen = []
    model.layer1.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    x = torch.randn(4, 3, 8, 8)
    model(x)
    torch.testing.assert_close(seen[0], model.bn1(model.conv1(x)))
    assert seen[0].min() < 0


def test_preact_shortcut_starts_at_the_activation_in_the_first_block_and_where_the_shape_changes():
    model = timm.create_model("preact_resnet18_cifar", widths=(8, 8, 16, 16), stem_chs=8).eval()
    for stage, shared in ((model.layer1, True), (model.layer2, True), (model.layer3, True)):
        x = torch.randn(2, stage[0].bn1.num_features, 6, 6)
        for block, shared_here in ((stage[0], shared), (stage[1], False)):
            nn.init.zeros_(block.conv2.weight)
            start = block.bn1(x).relu() if shared_here else x
            torch.testing.assert_close(block(x), block.downsample(start))
            x = block(x)
    assert isinstance(model.layer1[0].downsample, nn.Identity)
    assert model.layer2[0].downsample.weight.shape == (8, 8, 1, 1)


def test_dense_layer_passes_its_input_on_and_appends_the_growth():
    layer = timm.create_model("densenet_bc100_12_cifar", depth=10).layer2[1]
    x = torch.randn(2, 18, 5, 5)
    y = layer(x)
    assert y.shape == (2, 30, 5, 5) and torch.equal(y[:, :18], x)


def test_weights_start_with_variance_two_over_fan_out():
    model = timm.create_model("resnet20_cifar")
    for conv in (m for m in model.modules() if isinstance(m, nn.Conv2d) and m.weight.numel() > 8000):
        assert conv.weight.std().item() == pytest.approx((2 / (9 * conv.out_channels)) ** 0.5, rel=0.05)
    assert not model.fc.bias.any()


@pytest.mark.parametrize(
    "name, kwargs, message",
    [
        ("resnet20_cifar", dict(depth=21), "6n \\+ 2"),
        ("resnext29_8x64d_cifar", dict(depth=30), "9n \\+ 2"),
        ("densenet_bc100_12_cifar", dict(depth=99), "6n \\+ 4"),
        ("pyramidnet200_a240_cifar", dict(depth=110 + 1), "9n \\+ 2"),
        ("pyramidnet110_a270_cifar", dict(depth=111), "6n \\+ 2"),
    ],
)
def test_depth_that_does_not_fit_the_stages_is_refused(name, kwargs, message):
    with pytest.raises(ValueError, match=message):
        timm.create_model(name, **kwargs)
