"""`timm-moex list`, `recipe`, `sites`, and the help of every subcommand."""

import re

import pytest
import timm

import timm_moex
from timm_moex.cli import main
from timm_moex.hub.convert import ARCHITECTURES
from timm_moex.training.recipe import load_recipe, packaged_recipes


def run(capsys, *words):
    """(exit code, stdout, stderr) of a command."""
    code = main([str(word) for word in words])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_list_names_models(capsys):
    names = run(capsys, "list", "moex_resnet*")[1].splitlines()
    assert "moex_resnet20_cifar" in names and names == timm.list_models("moex_resnet*")


def test_list_says_what_each_recipe_is(capsys):
    lines = run(capsys, "list", "--recipes")[1].splitlines()
    assert [line.split()[0] for line in lines] == list(packaged_recipes())
    assert "cifar10_resnet110            ResNet-110 with MoEx on CIFAR-10." in lines
    assert all(re.fullmatch(r"\w+  +[A-Z].{20,}[.:)]", line) for line in lines)


def test_recipe_prints_a_file_that_trains_identically(capsys, tmp_path):
    code, text, _ = run(capsys, "recipe", "quickstart")
    mine = tmp_path / "mine.yaml"
    mine.write_text(text, encoding="utf-8")
    assert code == 0 and text == packaged_recipes()["quickstart"].read_text(encoding="utf-8")
    assert load_recipe(mine).settings == load_recipe("quickstart").settings


def test_recipe_suggests_a_name_if_there_is_none_of_that_name(capsys):
    code, out, err = run(capsys, "recipe", "quikstart")
    assert (code, out, err.count("\n")) == (2, "", 1) and "did you mean 'quickstart'?" in err


def test_help_of_convert_names_every_architecture(capsys):
    with pytest.raises(SystemExit):
        main(["convert", "--help"])
    shown = capsys.readouterr().out
    assert all(name in shown for name in ARCHITECTURES)


def test_list_suggests_a_name_if_none_matches(capsys):
    code, out, err = run(capsys, "list", "moex_restnet50*")
    assert (code, out) == (2, "") and "'moex_restnet50*'; did you mean 'moex_resnet50'?" in err


def test_details_are_those_of_the_model(capsys):
    lines = run(capsys, "list", "moex_test_resnet", "--details")[1].splitlines()
    count = sum(weight.numel() for weight in timm.create_model("moex_test_resnet").parameters())
    rows = timm_moex.hub.manifest.released_weights().values()
    stated = {row.tag: f"{row.tag} ({row.top1['value']:.2f})" for row in rows}
    tags = ", ".join(["r160_in1k", stated["moex_cifar10"], stated["plain_cifar10"]])
    assert lines[1].split() == ["moex_test_resnet", f"{count / 1e6:.2f}", "3x160x160", *tags.split()]
    assert stated["fmnist_sample"] in run(capsys, "list", "resnet20_cifar", "--details")[1]


@pytest.mark.parametrize(
    "model, lines",
    [
        (
            "resnet18",
            {
                "stem input of layer1 NCHW (B, 64, 56, 56) pono default",
                "stage4 output of layer4 NCHW (B, 512, 7, 7) pono",
            },
        ),
        ("test_vit", {"stage1 output of blocks.0 NLC (B, 101, 64) with 1 prefix token in"}),
        ("hrnet_w18_small", {"stage2 output of stage2 NCHW (B, 16, 56, 56) (B, 32, 28, 28) pono"}),
    ],
)
def test_sites_have_shapes_norms_and_one_default(model, lines, capsys):
    printed = [" ".join(line.split()) for line in run(capsys, "sites", model)[1].splitlines()]
    assert lines <= set(printed) and sum(line.endswith(" default") for line in printed) == 1


@pytest.mark.parametrize("model", ["test_convnext", "test_vit", "resnet18"])
def test_the_default_site_is_where_a_twin_exchanges(model, capsys):
    (line,) = [line for line in run(capsys, "sites", model)[1].splitlines() if line.endswith("default")]
    exchange = timm.create_model(f"moex_{model}").moex.sites[0]
    assert (line.split()[0], line.split()[-2]) == (exchange.site.name, exchange.norm)


def test_unknown_model_has_no_sites(capsys):
    code, _, err = run(capsys, "sites", "restnet18")
    assert code == 2 and "not registered; did you mean 'resnet18'" in err


def test_version_is_the_packages(capsys):
    with pytest.raises(SystemExit):
        main(["--version"])
    assert capsys.readouterr().out.startswith(f"timm-moex {timm_moex.__version__}, timm {timm.__version__}, torch ")


def test_every_subcommand_ends_its_help_with_an_example(capsys):
    with pytest.raises(SystemExit):
        main(["--help"])
    commands = re.findall(r"^    ([a-z]+)\s", capsys.readouterr().out, re.MULTILINE)
    assert len(commands) >= 11
    for command in commands:
        with pytest.raises(SystemExit):
            main([command, "--help"])
        last = re.split(r"^examples?:\n", capsys.readouterr().out, flags=re.MULTILINE)[1]
        shown = "train" if command == "sample" else command  # which prints a folder for it
        assert all(re.match(rf"  (timm-moex|torchrun .*-m timm_moex) {shown}\b", line) for line in last.splitlines())
