from pathlib import Path

import pytest

from shards.config.cli import parse_assemble_config
from shards.config.schema import AssembleConfig
from shards.download.url_rewrite import rewrite
from shards.errors import ConfigError
from shards.location import url_of


def test_defaults_are_caffes():
    config = parse_assemble_config(["--list", "flickr_style", "--out", "x"])
    assert config == AssembleConfig(list="flickr_style", out=Path("x"))


def test_out_may_be_a_url():
    config = parse_assemble_config(["--list=a", "--out=s3://bucket/DIR", "--stage=/fast", "--keep_stage"])
    assert (url_of(config.out), config.stage, config.keep_stage) == ("s3://bucket/DIR", Path("/fast"), True)
    assert (config.images, config.seed, config.encode_format, config.image_size) == (-1, 831486, "original", 256)


def test_flags_win_over_the_file(tmp_path):
    file = tmp_path / "c.yaml"
    file.write_text("list: a.csv\nout: d\nimages: 5\nseed: 3\n")
    config = parse_assemble_config(["--config", str(file), "--images", "7"])
    assert (config.list, config.images, config.seed) == ("a.csv", 7, 3)


@pytest.mark.parametrize(
    "arguments",
    [
        ["--list", "train=a b.txt", "--list", "test=b.txt", "--out", "x"],
        ["--list=train=a b.txt", "--out", "x", "--list=test=b.txt"],
    ],
)
def test_list_may_be_given_several_times(arguments):
    assert list(parse_assemble_config(arguments).lists) == ["train=a b.txt", "test=b.txt"]


@pytest.mark.parametrize(
    ("arguments", "is_set"),
    [
        (["--drop_duplicates", "--out", "x"], True),
        (["--out", "x", "--drop_duplicates"], True),
        (["--drop_duplicates=false", "--out", "x"], False),
        (["--drop_duplicates", "false", "--out", "x"], False),
        (["--out", "x"], False),
    ],
)
def test_a_switch_may_stand_alone(arguments, is_set):
    assert parse_assemble_config(["--list", "a", *arguments]).drop_duplicates is is_set


def test_workers_below_zero_leave_cores_free():
    assert AssembleConfig(list="a", out=Path("x"), workers=-1000).worker_count == 1
    assert AssembleConfig(list="a", out=Path("x"), workers=7).worker_count == 7


@pytest.mark.parametrize("name", ["flickr_style", "flickr_style_2000"])
def test_flickrs_old_hosts_are_asked_for_by_their_new_name_once_they_are_silent(name):
    config = parse_assemble_config(["--config", str(Path(__file__).parents[3] / "configs" / "shards" / f"{name}.yaml")])
    moved = "https://live.staticflickr.com/8077/8375346364_7e11d1ca5d.jpg"
    for host in ("farm9.staticflickr.com", "farm9.static.flickr.com"):
        assert rewrite(f"http://{host}/8077/8375346364_7e11d1ca5d.jpg", config.rewrite) == moved
    assert rewrite(moved, config.rewrite) is None
    assert AssembleConfig(list="a", out=Path("x")).rewrite == ()


@pytest.mark.parametrize("name", ["flickr_style", "flickr_style_2000"])
def test_shipped_configs_are_read_and_open_with_their_command(name):
    path = Path(__file__).parents[3] / "configs" / "shards" / f"{name}.yaml"
    config = parse_assemble_config(["--config", str(path)])
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
        (
            ["--list", "a", "--out", "x", "--placeholder_urls", "1"],
            "placeholder_urls is 1; it must be at least 2, or 0",
        ),
        (["--list", "a", "--out", "x", "--contact", "me\ndir=/"], "contact"),
        (["--list", "a", "--out", "x", "--images", "0"], "images is 0"),
        (["--list", "a", "--out", "x", "--images", "-2"], "images is -2"),
        (["--list", "a", "--out", "x", "--image_size", "4097"], "image_size is 4097"),
        (["--list", "a", "--out", "x", "--labels", "few"], "labels: Expected one of int, NoneType. Got value: few"),
        (["--list", "a", "--out", "x", "--imagse", "3"], "did you mean --images?"),
        (
            ["--list", "a", "--out", "x", "--partition", "3/3"],
            "partition is 3/3; it must be i/n with i from 0 to n - 1",
        ),
        (["--list", "a", "--out", "x", "--partition", "3"], "partition is 3;"),
        (["--list", "a", "--out", "x", "--partition", "0/0"], "partition is 0/0;"),
        (["--list", "a", "--out", "x", "--partition=-1/3"], "partition is -1/3;"),
        (["--list", "a", "--out", "x", "--proxy", "nonsense::"], "http://host:8080"),
        (["--list", "a", "--out", "x", "--proxy", "socks5://h:1"], "http://host:8080"),
        (["--list", "a", "--out", "x", "--proxy", "http://h:99999"], "http://host:8080"),
        (["--list", "a", "--out", "x", "--per_host_rate", "-1"], "per_host_rate is -1.0"),
        (["--list", "a", "--out", "x", "--rewrite", '[{match: "(a", replace: b}]'], "rewrite: match '(a'"),
        (["--list", "a", "--out", "x", "--rewrite", "[{match: a}]"], "rewrite: the following arguments are required"),
        (["--list", "a", "--out", "x", "--rewrite", "[{math: a, replace: b}]"], "rewrite: Option 'math'"),
        (["--config", "nosuch.yaml"], "nosuch.yaml"),
        (["--config"], "--config"),
    ],
)
def test_a_mistake_is_one_line_that_names_it(arguments, named):
    with pytest.raises(ConfigError) as caught:
        parse_assemble_config(arguments)
    assert named in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_proxys_password_is_not_told():
    with pytest.raises(ConfigError) as caught:
        AssembleConfig(list="a", out=Path("x"), proxy="http://me:secret@h:port")
    assert "proxy is h:port" in str(caught.value)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("proxy", ["http://h:8080", "h:80", "127.0.0.1", "http://u:p@h:8080/", "http://[::1]:3128"])
def test_what_is_a_proxys_url_is_taken(proxy):
    assert AssembleConfig(list="a", out=Path("x"), proxy=proxy).proxy == proxy


@pytest.mark.parametrize(
    ("content", "named"),
    [
        (b"list: a.csv\nout: d\nimagse: 5\n", "unknown key imagse; did you mean images?"),
        (b"list: a.csv\nout: d\n3: 5\n", "unknown key 3"),
        (b"\xff\xfe\x00", "isn't UTF-8"),
        (b"list: a.csv\nout: [a\nimages: 3\n", ", line 3"),
        (b"list: 'a\x01'\n", "mend the YAML"),
        (b"list: a.csv\nout: d\nlist: b.csv\n", ", line 3: list is given a second time; keep one of them"),
        (b"- a\n- b\n", "one key: value a line"),
        (b"just text\n", "one key: value a line"),
        (b"", "one key: value a line"),
    ],
)
@pytest.mark.parametrize("form", ["--config {}", "--config={}"])
def test_what_is_wrong_with_a_file_names_the_file(tmp_path, content, named, form):
    file = tmp_path / "c.yaml"
    file.write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        parse_assemble_config(form.format(file).split(" "))
    assert str(caught.value).startswith(f"--config {file}")
    assert named in str(caught.value)
    assert "\n" not in str(caught.value)
