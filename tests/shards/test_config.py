from pathlib import Path

import pytest

from shards.config import AssembleConfig, ConfigError, parse


def test_defaults_are_caffes():
    config = parse(["--list", "flickr_style", "--out", "x"])
    assert config == AssembleConfig(list="flickr_style", out=Path("x"))
    assert (config.images, config.seed, config.encode_format, config.image_size) == (-1, 831486, "original", 256)


def test_flags_win_over_the_file(tmp_path):
    file = tmp_path / "c.yaml"
    file.write_text("list: a.csv\nout: d\nimages: 5\nseed: 3\n")
    config = parse(["--config", str(file), "--images", "7"])
    assert (config.list, config.images, config.seed) == ("a.csv", 7, 3)


@pytest.mark.parametrize(
    "arguments",
    [
        ["--list", "train=a b.txt", "--list", "test=b.txt", "--out", "x"],
        ["--list=train=a b.txt", "--out", "x", "--list=test=b.txt"],
    ],
)
def test_list_may_be_given_several_times(arguments):
    assert list(parse(arguments).lists) == ["train=a b.txt", "test=b.txt"]


def test_workers_below_zero_leave_cores_free():
    assert AssembleConfig(list="a", out=Path("x"), workers=-1000).worker_count == 1
    assert AssembleConfig(list="a", out=Path("x"), workers=7).worker_count == 7


@pytest.mark.parametrize("name", ["flickr_style", "flickr_style_2000"])
def test_shipped_configs_are_read_and_open_with_their_command(name):
    path = Path(__file__).parents[2] / "configs" / "shards" / f"{name}.yaml"
    config = parse(["--config", str(path)])
    assert config.list == "flickr_style"
    assert config.seed == 831486
    text = path.read_text()
    assert f"python -m shards assemble --config configs/shards/{name}.yaml" in text
    assert "Cost:" in text
    assert "Expected:" in text


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--out", "x"], "--list"),
        (["--list", "a"], "--out"),
        (["--list", "a", "--out", "x", "--imagse", "3"], "--imagse"),
        (["--list", "a", "--out", "x", "--images", "many"], "images"),
        (["--list", "a", "--out", "x", "--connections", "0"], "connections"),
        (["--list", "a", "--out", "x", "--encode_format", "tiff"], "encode_format"),
        (["--list", "a", "--out", "x", "--labels", "0"], "labels"),
        (["--list", "a", "--out", "x", "--seed", "-1"], "seed"),
        (["--list", "a", "--out", "x", "--test_share", "1"], "test_share"),
        (["--list", "a", "--out", "x", "--workers", "0"], "workers"),
        (["--list", "a", "--out", "x", "--contact", "me\ndir=/"], "contact"),
        (["--config", "nosuch.yaml"], "nosuch.yaml"),
    ],
)
def test_a_mistake_is_one_line_that_names_it(arguments, named):
    with pytest.raises(ConfigError) as caught:
        parse(arguments)
    assert named in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_unknown_key_in_the_file_is_named(tmp_path):
    file = tmp_path / "c.yaml"
    file.write_text("list: a.csv\nout: d\nimagse: 5\n")
    with pytest.raises(ConfigError, match="imagse"):
        parse(["--config", str(file)])
