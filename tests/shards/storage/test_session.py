"""The folder that a DIR is written in, and the lock on it."""

from pathlib import Path

import pytest

from shards.__main__ import main
from shards.config.schema import Partition
from shards.errors import ShardsError
from shards.storage import session
from tests.assembly import serve_pictures
from tests.stores import names_of, open_store


def test_a_folder_is_used_as_it_is_and_each_url_has_its_own_stage(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert session.local_root(Path("a/b")) == Path("a/b")
    assert session.local_root(Path("file:///a/b c")) == Path("/a/b c")
    url = Path("s3://bucket/DIR")
    stages = [
        session.local_root(url),
        session.local_root(Path("s3://bucket/DIR2")),
        session.local_root(url, Partition(0, 2)),
        session.local_root(url, Partition(1, 2)),
        session.local_root(url, base=tmp_path / "fast"),
    ]
    assert len(set(stages)) == len(stages)
    assert [stage.parent for stage in stages] == [tmp_path / "stylefinetune" / "stage"] * 4 + [tmp_path / "fast"]
    assert session.local_root(Path("s3://bucket/DIR/")) == stages[0]


def test_error_messages_name_objects_and_not_the_stage(tmp_path):
    root = tmp_path / "stage"
    with (
        pytest.raises(ShardsError) as caught,
        session.errors_naming_url(root, "s3://bucket/DIR"),
    ):
        raise ShardsError(f"{root}/blocks/a is damaged; {root}: no; can't write into {root}/.work/whole")
    assert str(caught.value) == (
        f"s3://bucket/DIR/blocks/a is damaged; s3://bucket/DIR: no; can't write into {root}/.work/whole"
    )


def test_a_damaged_object_is_named_and_can_be_made_again(server, draw_jpg, write_list, run_assemble, memory, capsys):
    url = f"{memory}/x"
    path = write_list(serve_pictures(server, draw_jpg, 10))
    run_assemble(list=path, out=Path(url), rows_per_shard=5)
    fs, base = open_store(url)
    fs.pipe_file(f"{base}/blocks/test-00000.outcomes.parquet", b"no parquet")
    assert main(["finalize", url]) == 2
    error = capsys.readouterr().err
    assert f"{url}/blocks/test-00000.outcomes.parquet can't be read" in error
    assert "remove it, and the assemble command makes its block again" in error
    fs.rm_file(f"{base}/blocks/test-00000.outcomes.parquet")
    run_assemble(list=path, out=Path(url), rows_per_shard=5)
    assert main(["verify", url]) == 0
    capsys.readouterr()


@pytest.mark.parametrize("command", ["finalize", "merge", "verify"])
def test_nothing_is_created_under_a_url_without_shards(memory, tmp_path, capsys, command):
    assert main([command, f"{memory}/x"]) == 2
    error = capsys.readouterr().err
    assert f"{memory}/x: not a shard directory" in error
    assert error.count("\n") == 1
    assert names_of(f"{memory}/x") == set()
    assert list((tmp_path / "cache").rglob("stage/*")) == []


def test_the_second_of_two_processes_is_refused(server, draw_jpg, write_list, run_assemble, memory, tmp_path):
    path = write_list(serve_pictures(server, draw_jpg, 10))
    url = Path(f"{memory}/x")
    with session.open_session(url), pytest.raises(ShardsError, match=f"^{memory}/x is in use by process "):
        run_assemble(list=path, out=url, stage=tmp_path / "other")
    with session.open_session(url), pytest.raises(ShardsError, match=f"^{memory}/x is in use by process "):
        run_assemble(list=path, out=url)  # in the same stage
    assert server.requests == []


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["report", "s3://bucket/DIR"], "aws s3 cp --recursive s3://bucket/DIR DIR"),
        (["mean", "gs://bucket/DIR"], "gcloud storage cp --recursive gs://bucket/DIR DIR"),
        (["repack", "s3://bucket/DIR", "--out=x", "--encode_format=pixels"], "aws s3 cp --recursive s3://bucket/DIR"),
        (["repack", "{dir}", "--out=s3://bucket/DIR", "--encode_format=pixels"], "a folder is needed here, not a URL"),
        (["mean", "file:///a/b"], "give its path, /a/b"),
    ],
)
def test_commands_that_need_a_folder_explain_how_to_get_one(
    draw_jpg, run_assemble, tmp_path, monkeypatch, capsys, arguments, named
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.jpg").write_bytes(draw_jpg(0))
    (tmp_path / "train.txt").write_text(f"{tmp_path / 'a.jpg'} 0\n")
    run_assemble(list="train=train.txt")
    before = sorted(tmp_path.iterdir())
    assert main([argument.replace("{dir}", str(tmp_path / "out")) for argument in arguments]) == 2
    error = capsys.readouterr().err
    assert named in error
    assert error.count("\n") == 1
    assert sorted(tmp_path.iterdir()) == before
