import dataclasses

import pytest
import yaml

from stylefinetune.config.cli import load_config
from stylefinetune.init.files import commands, finetune_text, shards_text
from stylefinetune.init.source import Source

SOURCE = Source("my", "the folder p", "data/my", {"list": "a b", "out": "data/my"}, {"cat": 90, "dog": 900})


@pytest.fixture
def read(tmp_path):
    """Write the config of a run and read it as training does."""

    def read(source, arch="resnet50", weights="DEFAULT", epochs=30, batch_size=None):
        text = finetune_text(source, arch, weights, epochs, batch_size)
        (tmp_path / "finetune.yaml").write_text(text, encoding="utf-8")
        assert max(map(len, text.splitlines())) <= 120
        return text, load_config(tmp_path / "finetune.yaml")

    return read


def test_the_config_is_read_as_it_is_meant(read):
    text, config = read(SOURCE, epochs=0.5, batch_size=16)
    assert (config.data.shards, config.run_dir, config.weights) == ("data/my", "runs/my", "DEFAULT")
    assert (config.train.epochs, config.data.batch_size, config.train.test_interval) == (0.5, 16, 62)
    assert config.model.arch == "resnet50"
    assert config.checkpoint.snapshot == config.train.test_interval
    assert "# balanced: true # draws all classes equally often: dog has 900 training pictures and cat 90" in text


@pytest.mark.parametrize("arch", ["vit_b_16", "caffenet", "timm/resnet10t"])
@pytest.mark.parametrize("weights", ["DEFAULT", None])
def test_every_kind_of_network_has_a_valid_config(read, arch, weights):
    _, config = read(SOURCE, arch, weights)
    assert (config.model.arch, config.weights) == (arch, weights)
    assert config.model.last_layer == ("fc8_my" if arch == "caffenet" else "fc8_flickr")


def test_weights_of_a_file_are_not_called_published(read):
    text, config = read(SOURCE, weights="mine/model.safetensors")
    assert config.weights == "mine/model.safetensors"
    assert "# the weights of this file" in text
    assert "published" not in text


def test_other_splits_and_several_labels(read):
    _, config = read(dataclasses.replace(SOURCE, test_split="val", several_labels=True))
    assert (config.data.test.split, config.train.loss) == ("val", "bce")
    text, config = read(dataclasses.replace(SOURCE, test_split="", train_counts={}))
    assert config.data.test.split == ""
    assert "there are no pictures to test on" in text


def test_the_config_of_the_shards_has_comments():
    text = shards_text(SOURCE)
    assert yaml.safe_load(text) == {"list": "a b", "out": "data/my", "test_share": 0.2, "encode_format": "original"}
    assert text.startswith("# Packs the folder p.\n")


def test_the_commands_are_in_order_and_quoted():
    assert commands(SOURCE, "caffenet", "bvlc_reference_caffenet", "a b/") == [
        "shards assemble --config 'a b/shards.yaml'",
        "shards mean data/my",
        "stylefinetune weights bvlc_reference_caffenet",
        "stylefinetune check --config 'a b/finetune.yaml'",
        "stylefinetune train --config 'a b/finetune.yaml'",
    ]
    assert not any("weights" in step for step in commands(SOURCE, "caffenet", "mine.caffemodel", ""))
    first, *_ = commands(dataclasses.replace(SOURCE, assembly=None), "resnet50", None, "")
    assert first == "stylefinetune check --config finetune.yaml"
