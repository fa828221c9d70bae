"""Checkpoints shaped like the official repository's, made from torchvision's models, become timm folders."""

import json
import re
from collections import OrderedDict

import pytest
import timm
import torch
import torchvision
from timm.models import load_checkpoint

from timm_moex.hub.convert import ConvertError, convert, without_common_prefix


def official(model, **changes):
    """A checkpoint like those of the official scripts: a model wrapped in DDP, SGD, and the numbers of the epoch."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    state = OrderedDict((f"module.{key}", value) for key, value in model.state_dict().items())
    checkpoint = {"epoch": 300, "arch": "moex_resnet50", "state_dict": state, "best_prec1": 79.1}
    return checkpoint | {"optimizer": optimizer.state_dict()} | changes


def with_lively_statistics(model):
    """Set running statistics as if trained; with initial ones, swapping two BatchNorms would go unnoticed."""
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(std=0.1)
            module.running_var.uniform_(0.5, 1.5)
            module.num_batches_tracked.fill_(7)
            torch.nn.init.uniform_(module.weight, 0.5, 1.5)
            torch.nn.init.normal_(module.bias, std=0.1)
    return model.eval()


@pytest.fixture(scope="module")
def resnet():
    torch.manual_seed(0)
    return with_lively_statistics(torchvision.models.resnet50())


@torch.inference_mode()
def assert_same_logits(theirs, folder):
    ours = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    x = torch.randn(2, 3, 64, 64)
    a, b = theirs(x), ours(x)
    assert a.std() > 1e-3 and torch.allclose(a, b, rtol=1e-5, atol=1e-5 * float(a.abs().max()))


@pytest.mark.parametrize("new_format", [True, False], ids=["zip", "format_of_torch_1.3"])
def test_resnet50_keeps_its_logits(new_format, resnet, tmp_path):
    torch.save(official(resnet), tmp_path / "a.pt", _use_new_zipfile_serialization=new_format)
    folder = convert(tmp_path / "a.pt", "resnet50", tmp_path / "out")
    assert_same_logits(resnet, folder)
    config = json.loads((folder / "config.json").read_text())
    assert config["architecture"] == "resnet50" and config["num_classes"] == 1000
    cfg = config["pretrained_cfg"]
    assert (cfg["input_size"], cfg["crop_pct"], cfg["interpolation"]) == ([3, 224, 224], 0.875, "bilinear")
    assert "license" not in cfg and "tag" not in cfg  # timm's own weights' licence is not that of these
    card = (folder / "README.md").read_text()
    assert "top-1 79.10, as stated in the file" in card
    assert "by timm_moex." in card and "github.com/Boyiliee/MoEx" in card
    assert not list(folder.glob("*.bin")) and not list(folder.glob("*.p*t*"))


@pytest.mark.parametrize("prefix", ["model.", "net.backbone.", "module.model."])
def test_one_common_prefix_is_removed(prefix, resnet, tmp_path):
    state = {prefix + key: value for key, value in resnet.state_dict().items()}
    torch.save(official(resnet, state_dict=state), tmp_path / "a.pt")
    assert_same_logits(resnet, convert(tmp_path / "a.pt", "resnet50", tmp_path / "out"))


def test_initial_checkpoint_of_lightning_loads_and_others_give_a_one_line_error(tmp_path):
    theirs = timm.create_model("test_resnet", num_classes=10)
    for prefix in ("model.", "f"):
        state = {prefix + key: value for key, value in theirs.state_dict().items()}
        torch.save({"state_dict": state, "pytorch-lightning_version": "2.5"}, tmp_path / f"{prefix}ckpt")
    ours = timm.create_model("moex_test_resnet", num_classes=10)
    load_checkpoint(ours, str(tmp_path / "model.ckpt"), filter_fn=without_common_prefix)
    assert all(torch.equal(value, theirs.state_dict()[key]) for key, value in ours.state_dict().items())
    with pytest.raises(ValueError, match="none of its keys match the model: it has fconv1.*; the model has conv1"):
        load_checkpoint(ours, str(tmp_path / "fckpt"), filter_fn=without_common_prefix)


@pytest.mark.parametrize("old_names", [False, True], ids=["norm1", "norm.1"])
def test_densenet265_keeps_its_logits(old_names, tmp_path):
    theirs = torchvision.models.DenseNet(growth_rate=32, block_config=(6, 12, 64, 48), num_init_features=64)
    theirs = with_lively_statistics(theirs)
    state = theirs.state_dict()
    if old_names:
        state = {re.sub(r"(denselayer\d+\.(?:norm|conv))([12])", r"\1.\2", key): v for key, v in state.items()}
        assert "features.denseblock1.denselayer1.norm.1.weight" in state
    state = {f"module.{key}": value for key, value in state.items()}
    torch.save({"epoch": 1, "arch": "moex_densenet_265", "state_dict": state}, tmp_path / "a.pt")
    assert_same_logits(theirs, convert(tmp_path / "a.pt", "densenet265", tmp_path / "out"))


class Surprise:
    def __reduce__(self):
        return (print, ("this must never be called",))


WRONG = {
    "foreign_key": (lambda c: c | {"amp": {}}, "contains unexpected keys: amp; expected only epoch, arch"),
    "pickle": (lambda c: c | {"best_prec1": Surprise()}, r"contains a pickled \S*print; unpickling it could run code"),
    "foreign_tensor": (
        lambda c: with_state(c, extra=torch.zeros(2)),
        r'does not fit resnet50: .*Unexpected key\(s\) in state_dict: "extra"\.$',
    ),
    "not_a_tensor": (lambda c: with_state(c, note="hello"), r"state_dict\['note'\] is a str, not a tensor"),
    "missing": (
        lambda c: without(c, "module.bn1.bias"),
        r'does not fit resnet50: .*Missing key\(s\) in state_dict: "bn1.bias"\.$',
    ),
    "shape": (
        lambda c: with_state(c, **{"module.bn1.bias": torch.zeros(3)}),
        r"does not fit resnet50: .*size mismatch for bn1\.bias: .*\[3\].*\[64\]\)\.$",
    ),
    "twice": (lambda c: with_state(c, **{"bn1.bias": torch.zeros(64)}), "has 'bn1.bias' twice"),
    "nan": (lambda c: with_state(c, **{"module.bn1.bias": torch.full((64,), torch.nan)}), "bn1.bias'. is not finite"),
    "other_arch": (lambda c: c | {"arch": "moex_densenet_265"}, "not 'moex_resnet50'; use --arch densenet265"),
    "bare_state_dict": (lambda c: c["state_dict"], "expected 'state_dict', found module.conv1.weight,"),
    "no_dict": (lambda c: [c["state_dict"]], "expected 'state_dict', found list"),
}


def with_state(checkpoint, **entries):
    return checkpoint | {"state_dict": checkpoint["state_dict"] | entries}


def without(checkpoint, key):
    return checkpoint | {"state_dict": {k: v for k, v in checkpoint["state_dict"].items() if k != key}}


@pytest.mark.parametrize("case", WRONG)
def test_anything_else_is_refused_by_name(case, resnet, tmp_path, capsys):
    change, message = WRONG[case]
    torch.save(change(official(resnet)), tmp_path / "a.pt")
    with pytest.raises(ConvertError, match=message):
        convert(tmp_path / "a.pt", "resnet50", tmp_path / "out")
    assert not (tmp_path / "out").exists() and "never be called" not in capsys.readouterr().out


def test_a_truncated_file_and_wrong_arguments_give_clear_errors(resnet, tmp_path):
    torch.save(official(resnet), tmp_path / "a.pt")
    (tmp_path / "cut.pt").write_bytes((tmp_path / "a.pt").read_bytes()[:100_000])
    with pytest.raises(ConvertError, match="cut.pt is truncated or not a PyTorch file"):
        convert(tmp_path / "cut.pt", "resnet50", tmp_path / "out")
    with pytest.raises(FileNotFoundError, match="no such file"):
        convert(tmp_path / "b.pt", "resnet50", tmp_path / "out")
    with pytest.raises(ConvertError, match="arch='resnet18': expected one of resnet50, densenet265"):
        convert(tmp_path / "a.pt", "resnet18", tmp_path / "out")
