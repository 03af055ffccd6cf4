from pathlib import Path

import pytest

from shards.config.cli import one_line, parse_assemble_config
from shards.config.schema import AssembleConfig
from shards.download.url_rewrite import rewrite
from shards.errors import ConfigError
from shards.location import url_of
from tests.programs import ROOT


def test_defaults_are_caffes():
    config = parse_assemble_config(["--list", "flickr_style", "--out", "x"])
    assert config == AssembleConfig(list="flickr_style", out=Path("x"))


def test_out_may_be_a_url():
    config = parse_assemble_config(["--list=a", "--out=s3://bucket/DIR", "--stage=/fast", "--keep_stage"])
    assert (url_of(config.out), config.stage, config.keep_stage) == ("s3://bucket/DIR", Path("/fast"), True)
    assert (config.images, config.seed, config.encode_format, config.image_size) == (-1, 831486, "original", 256)


def test_columns_have_other_names_or_no_labels():
    config = parse_assemble_config(["--list=a", "--out=x", "--url_col=url", "--label_col=null"])
    assert (config.url_col, config.label_col) == ("url", None)


def test_flags_override_the_file(tmp_path):
    file = tmp_path / "c.yaml"
    file.write_text("list: a.csv\nout: d\nimages: 5\nseed: 3\n")
    config = parse_assemble_config(["--config", str(file), "--images", "7"])
    assert (config.list, config.images, config.seed) == ("a.csv", 7, 3)


@pytest.mark.parametrize(
    "arguments",
    [
        ["--list", "train=a b.txt", "--list", "test=b.txt", "--out", "x"],
        ["--list=train=a b.txt", "--out", "x", "--list=test=b.txt"],
        ["--list", "train=a b.txt", "--images", "-1", "--list=test=b.txt", "--out=x", "--partition", "0/2"],
    ],
)
def test_list_may_be_given_several_times(arguments):
    assert list(parse_assemble_config(arguments).lists) == ["train=a b.txt", "test=b.txt"]


def test_names_of_lists_are_taken_literally():
    names = ["train=it's.txt", 'test="a\\b".txt', "val=é,ü.txt"]
    arguments = [part for name in names for part in ("--list", name)]
    assert list(parse_assemble_config([*arguments, "--out", "x"]).lists) == names


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
def test_a_switch_needs_no_value(arguments, is_set):
    assert parse_assemble_config(["--list", "a", *arguments]).drop_duplicates is is_set


@pytest.mark.parametrize("name", ["flickr_style", "flickr_style_2000"])
def test_shipped_configs_rewrite_flickrs_old_hosts(name):
    config = parse_assemble_config(["--config", str(ROOT / "configs" / "shards" / f"{name}.yaml")])
    moved = "https://live.staticflickr.com/8077/8375346364_7e11d1ca5d.jpg"
    for host in ("farm9.staticflickr.com", "farm9.static.flickr.com"):
        assert rewrite(f"http://{host}/8077/8375346364_7e11d1ca5d.jpg", config.rewrite) == moved
    assert rewrite(moved, config.rewrite) is None
    assert AssembleConfig(list="a", out=Path("x")).rewrite == ()


@pytest.mark.parametrize("name", ["flickr_style", "flickr_style_2000"])
def test_shipped_configs_are_valid_and_begin_with_their_command(name):
    path = ROOT / "configs" / "shards" / f"{name}.yaml"
    config = parse_assemble_config(["--config", str(path)])
    assert config.list == "flickr_style"
    assert config.seed == 831486
    text = path.read_text()
    assert f"shards assemble --config configs/shards/{name}.yaml" in text
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
        (["--list", "a", "--out", "x", "--label_col", "image_url"], "label_col is image_url; it must be another"),
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
        (["--list", "a", "--out", "x", "--list"], "--list"),
    ],
)
def test_a_mistake_is_reported_in_one_line(arguments, named):
    with pytest.raises(ConfigError) as caught:
        parse_assemble_config(arguments)
    assert named in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "named"),
    [
        (b"list: a.csv\nout: d\nimagse: 5\n", "unknown key imagse; did you mean images?"),
        (b"list: a.csv\nout: d\n3: 5\n", "unknown key 3"),
        (b"\xff\xfe\x00", "isn't UTF-8"),
        (b"list: a.csv\nout: [a\nimages: 3\n", ", line 3"),
        (b"list: 'a\x01'\n", "fix the YAML"),
        (b"list: a.csv\nout: d\nlist: b.csv\n", ", line 3: list is given twice; remove one of them"),
        (b"- a\n- b\n", "one key: value per line"),
        (b"just text\n", "one key: value per line"),
        (b"", "one key: value per line"),
    ],
)
@pytest.mark.parametrize("form", ["--config {}", "--config={}"])
def test_a_mistake_in_a_file_is_reported_with_the_files_name(tmp_path, content, named, form):
    file = tmp_path / "c.yaml"
    file.write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        parse_assemble_config(form.format(file).split(" "))
    assert str(caught.value).startswith(f"--config {file}")
    assert named in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("flag", "meant"),
    [
        ("--output_folder", "--out"),
        ("--url-list", "--list"),
        ("--thread_count", "--connections"),
        ("--imges", "--images"),
    ],
)
def test_names_of_other_programs_and_typing_errors_find_the_flag(flag, meant):
    assert one_line(f"unrecognized arguments: {flag} x") == f"unknown flag {flag} x; did you mean {meant}?"


def test_messages_of_jsonargparse_are_shortened():
    assert one_line("the following arguments are required: dir") == "DIR, the folder of the shards, is required"
    assert one_line("the following arguments are required: tars") == "TAR, one of the tars to index, is required"
    assert one_line("the following arguments are required: list") == "--list is required"
    assert one_line("the following arguments are required: list, out") == "--list and --out are required"
    assert one_line("a\n  b") == "a b"
