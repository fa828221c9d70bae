"""`exchange_pair`, and the input images and class names for its picture."""

import pytest
import timm
import torch
from PIL import Image

from timm_moex import insert_moex, load_model, moment_exchange
from timm_moex.insertion.pair import as_maps, exchange_pair
from timm_moex.insertion.sites import Site
from timm_moex.pictures.inputs import class_names, open_image, prepare_image, undo_normalisation

SWAP = torch.tensor([1, 0])


@pytest.mark.parametrize("norm", ["pono", "in"])
def test_pair_holds_the_features_of_the_site_and_both_predictions(norm):
    torch.manual_seed(0)
    model = insert_moex(timm.create_model("test_resnet", num_classes=7), "stage1", norm=norm).eval()
    images, seen = torch.randn(2, 3, 48, 32), []
    pair = exchange_pair(model, images)
    model.layer1.register_forward_hook(lambda module, args, output: seen.append(output))
    with torch.no_grad():
        plain, exchanged = model(images), model(images, swap_index=SWAP)
    assert torch.equal(pair.before, seen[0]) and pair.before.shape[2:] == (12, 8)
    assert torch.equal(pair.after, moment_exchange(seen[0], SWAP, norm=norm)) and torch.equal(pair.after, seen[1])
    assert torch.equal(pair.probabilities_before, plain.softmax(1))
    assert torch.equal(pair.probabilities_after, exchanged.softmax(1))


def test_moments_are_those_of_the_two_norms():
    torch.manual_seed(0)
    pair = exchange_pair(timm.create_model("moex_test_resnet"), torch.randn(2, 3, 32, 32))
    for moments, dims in ((pair.position_moments(), 1), (pair.channel_moments(), (2, 3))):
        assert torch.allclose(moments[0], pair.before.mean(dims)) and torch.allclose(moments[1], pair.before.std(dims))


def test_patch_tokens_lie_row_by_row_and_class_tokens_stay_out():
    images = torch.zeros(2, 3, 160, 160)
    images[0, :, :16, 144:] = 5.0  # the patch in the top right corner
    stem, stage1 = (
        exchange_pair(timm.create_model("moex_test_vit", moex_layer=layer, moex_norm="in"), images)
        for layer in ("stem", "stage1")
    )
    assert (stem.before[0] - stem.before[1]).abs().sum(0).nonzero().tolist() == [[0, 9]]
    assert stage1.site.prefix_tokens == 1 and stage1.before.shape == (2, 64, 10, 10)


def test_tokens_without_a_grid_are_refused():
    site = Site("stem", "x", "output", "NLC")
    assert as_maps(torch.zeros(2, 12, 5), site, (30, 40)).shape == (2, 5, 3, 4)
    with pytest.raises(ValueError, match="no height and width"):
        as_maps(torch.zeros(2, 11, 5), site, (30, 40))
    with pytest.raises(ValueError, match="are not ordered row by row"):
        exchange_pair(timm.create_model("moex_hiera_tiny_224", stages=(1, 1, 1, 1)), torch.zeros(2, 3, 224, 224))


def test_models_that_cannot_be_shown_are_refused():
    images = torch.randn(2, 3, 32, 32)
    with pytest.raises(ValueError, match="must have MoEx at exactly one site"):
        exchange_pair(timm.create_model("test_resnet"), images)
    with pytest.raises(ValueError, match="must have MoEx at exactly one site"):
        exchange_pair(timm.create_model("moex_test_resnet", moex_layer=["stem", "stage1"]), images)
    with pytest.raises(ValueError, match="classifier's logits"):
        exchange_pair(timm.create_model("moex_test_resnet", num_classes=0, global_pool=""), images)
    with pytest.raises(ValueError, match="expected two"):
        exchange_pair(timm.create_model("moex_test_resnet"), images[:1])


def test_sample_and_files_are_images(tmp_path):
    assert open_image("sample:999").size == (28, 28)
    Image.new("RGBA", (9, 7), "red").save(tmp_path / "red.png")
    config = dict(input_size=(3, 8, 8), mean=(0.5, 0.4, 0.3), std=(0.2, 0.2, 0.2), interpolation="bilinear")
    image = prepare_image(open_image(str(tmp_path / "red.png")), config)
    assert image.shape == (3, 8, 8)
    looks = undo_normalisation(image[None], config)[0]
    assert torch.allclose(looks[:, 4, 4], torch.tensor([1.0, 0.0, 0.0]), atol=1e-6)


@pytest.mark.parametrize("word", ["sample:1000", "sample:-1", "sample:", "sample:x", "nothing.png", "{tmp}/text.png"])
def test_a_file_that_is_not_an_image_is_rejected_by_name(word, tmp_path):
    (tmp_path / "text.png").write_text("no picture")
    word = word.format(tmp=tmp_path)
    with pytest.raises((ValueError, FileNotFoundError), match=f"image {word!r}"):
        open_image(word)


def test_names_of_classes_are_the_models_own_or_imagenets_or_numbers():
    assert class_names(load_model("resnet20_cifar.fmnist_sample"))[9] == "Ankle boot"
    assert class_names(timm.create_model("test_resnet", num_classes=3)) == ["class 0", "class 1", "class 2"]


def test_channels_other_than_1_and_3_are_refused():
    with pytest.raises(ValueError, match="4 channels"):
        prepare_image(open_image("sample:0"), dict(input_size=(4, 8, 8)))
