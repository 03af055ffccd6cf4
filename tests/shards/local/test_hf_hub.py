"""The hub is a server on this machine, which answers as the hub's documentation says."""

import json

import pytest

from shards.errors import ShardsError
from shards.format.index import ShardIndex
from shards.local.hf_hub import fetch_dataset
from tests.loopback import Answer
from tests.shards.local.datasets import write_dataset


@pytest.fixture
def hub(server, monkeypatch, tmp_path, draw_jpg):
    """A server with the dataset me/pets of two splits, and me/many of two configurations."""
    monkeypatch.setenv("HF_ENDPOINT", server.url + "/")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    configs = {}
    for split in ("train", "validation"):
        write_dataset(tmp_path / f"{split}.parquet", [draw_jpg(number) for number in range(3)], [0, 1, 0])
        path = f"/api/datasets/me/pets/parquet/default/{split}/0.parquet"
        configs[split] = [server.add(path, Answer((tmp_path / f"{split}.parquet").read_bytes()))]
    server.add("/api/datasets/me/pets/parquet", Answer(json.dumps({"default": configs}).encode()))
    server.add("/api/datasets/me/many/parquet", Answer(json.dumps({"a": configs, "b": configs}).encode()))
    return server


def test_a_dataset_is_downloaded_once(hub, tmp_path):
    for _ in range(2):
        folder = fetch_dataset("me/pets", None)
        assert sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.parquet")) == [
            "train/00000.parquet",
            "validation/00000.parquet",
        ]
    assert len(hub.request_times("/api/datasets/me/pets/parquet/default/train/0.parquet")) == 1
    assert folder.is_relative_to(tmp_path / "cache")


@pytest.mark.usefixtures("hub")
def test_one_split_alone():
    folder = fetch_dataset("me/pets", "valid")
    assert [path.parent.name for path in folder.rglob("*.parquet")] == ["validation"]
    assert fetch_dataset("me/many/b", "train").name == "b"


@pytest.mark.usefixtures("hub")
def test_assemble_takes_the_name_of_a_dataset(tmp_path, run_assemble):
    run_assemble(list="hf:me/pets")
    index = ShardIndex.load(tmp_path / "out")
    assert [len(index.entries(split)) for split in ("train", "test")] == [3, 3]
    assert index.metadata.classes == ("zebra", "ant")


@pytest.mark.usefixtures("hub")
@pytest.mark.parametrize(
    ("name", "split", "message"),
    [
        ("me/none", None, "404"),
        ("me/many", None, "it has the configurations a, b; give hf:me/many/CONFIGURATION"),
        ("me/many/c", None, "no configuration c among a, b"),
        ("me/pets", "nosuch", "it has the splits train, validation; choose one of them"),
        ("a folder/that/is/not/there", None, "neither a folder of Parquet files nor the name of a dataset"),
    ],
)
def test_mistakes_are_one_line(name, split, message):
    with pytest.raises(ShardsError) as caught:
        fetch_dataset(name, split)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
