"""A model opened together with its test set: the images chosen for a picture, and mismatches."""

import pytest
import torch
from tinydata import write_tiny

from timm_moex.training.datasets import sample_dir
from timm_moex.training.inference import open_inference, predict_samples

FASHION = dict(dataset="torch/fashion_mnist")
CHECKPOINT = "resnet20_cifar.fmnist_sample"


@pytest.fixture(scope="module")
def opened():
    return open_inference(CHECKPOINT, sample_dir(), **FASHION, batch_size=500)


@pytest.mark.parametrize("count, expected", [(4, [0, 250, 500, 750]), (3, [0, 333, 666]), (1, [0])])
def test_the_picked_images_are_spread_over_the_set(opened, count, expected):
    images, labels, _ = predict_samples(opened, count)
    dataset = opened.loader.dataset
    assert labels.tolist() == [dataset[i][1] for i in expected]
    assert torch.equal(images, torch.stack([torch.as_tensor(dataset[i][0]) for i in expected]) / 255)
    assert images.min() >= 0 and 0.5 < images.max() <= 1


def test_all_of_a_small_set_is_picked(tmp_path):
    small = open_inference(CHECKPOINT, write_tiny(tmp_path / "data"), **FASHION)
    assert len(predict_samples(small, 50)[0]) == 20


def test_predictions_are_those_of_the_evaluation_loader(opened):
    _, labels, predictions = predict_samples(opened, 1000)
    with torch.inference_mode():
        batches = [(opened.model(images).argmax(1), target) for images, target in opened.loader]
    assert torch.equal(predictions, torch.cat([found for found, _ in batches]))
    assert torch.equal(labels, torch.cat([target for _, target in batches]))


def test_names_are_the_datasets(opened):
    assert opened.name == CHECKPOINT and opened.class_names[0] == "T-shirt/top" and opened.unreadable == []


def test_columns_need_imagenets_classes():
    with pytest.raises(ValueError, match="needs ImageNet's 1,000 classes; resnet20_cifar.fmnist_sample has 10"):
        open_inference(CHECKPOINT, sample_dir(), **FASHION, columns={"n01498041": 6})
