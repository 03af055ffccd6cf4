"""A DIR under a URL, of which only one tar at a time is on the disk."""

import contextlib
from pathlib import Path

import pytest

from shards.__main__ import main
from shards.errors import ShardsError
from shards.storage import session, shard_dir, snapshot
from tests.assembly import serve_pictures
from tests.stores import objects_of, open_store


@pytest.fixture
def url(server, draw_jpg, write_list, run_assemble, memory):
    run_assemble(list=write_list(serve_pictures(server, draw_jpg, 20)), out=Path(f"{memory}/x"), rows_per_shard=5)
    return f"{memory}/x"


def test_a_complete_url_has_no_differences_and_is_not_changed(url, tmp_path, capsys):
    before = objects_of(url)
    assert main(["verify", url]) == 0
    assert (
        capsys.readouterr().out
        == f"{url}: no differences: 20 pictures of 20 rows in 5 blocks, each read, hashed and decoded\n"
    )
    assert objects_of(url) == before
    assert list((tmp_path / "cache").rglob("stage/*")) == []


def test_damaged_missing_and_additional_objects_are_reported(url, tmp_path, capsys):
    fs, base = open_store(url)
    tar = bytearray(objects_of(url)["train/00001.tar"])
    tar[1500] ^= 1  # within the first picture or its header
    fs.pipe_file(f"{base}/train/00001.tar", bytes(tar))
    fs.pipe_file(f"{base}/train/00009.tar", bytes(20))
    fs.pipe_file(f"{base}/blocks/train-00002.0123.redo/shard.tar", b"half")
    fs.rm_file(f"{base}/index.parquet")
    fs.rm_file(f"{base}/train/00002.tar")
    assert main(["verify", url, "--stage", str(tmp_path / "stages")]) == 1
    output = capsys.readouterr().out
    assert "train/00001.tar" in output
    assert "train/00009.tar: file: expected none (it belongs to no block), found 20 bytes" in output
    assert "train/00002.tar: its block: expected committed, found no train/00002.tar" in output
    assert "blocks/train-00002.0123.redo: folder" in output
    assert f"index.parquet: file: expected present, found none; make it with: shards finalize {url}" in output
    assert list((tmp_path / "stages").iterdir()) == []


def test_a_tar_is_on_the_disk_only_while_it_is_read(url):
    with snapshot.open_snapshot(Path(url)) as copy:
        assert copy.name == url
        blocks = shard_dir.load_shard_dir(copy.root).blocks()
        tars = {block: copy.root / block.shard for block in blocks}
        sizes = {block: len(objects_of(url)[block.shard]) for block in blocks}

        def present():
            return {block for block, path in tars.items() if path.read_bytes().strip(b"\0")}

        assert {block: path.stat().st_size for block, path in tars.items()} == sizes
        assert present() == set()
        for block in blocks:
            with copy.local_tar(block):
                assert present() == {block}
                assert tars[block].read_bytes() == objects_of(url)[block.shard]
            with contextlib.suppress(KeyError), copy.local_tar(block):
                raise KeyError
            assert present() == set()
    assert not copy.root.exists()


def test_a_url_that_is_being_written_is_refused(url, tmp_path):
    with (
        session.open_session(Path(url)),
        pytest.raises(ShardsError, match=r"is in use by process .*; verify it once that has ended"),
        snapshot.open_snapshot(Path(url), tmp_path / "other"),
    ):
        pass


def test_a_folder_is_read_in_place(tmp_path):
    with snapshot.open_snapshot(tmp_path) as copy, copy.local_tar(shard_dir.Block("train", 0)):
        assert (copy.root, copy.name) == (tmp_path, str(tmp_path))
    assert tmp_path.exists()
