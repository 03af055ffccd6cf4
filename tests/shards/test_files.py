import json
import os
from pathlib import Path

import pytest

from shards.files import make_folder, publish_file, publish_json, unpublish_file, write_file


def test_a_published_file_is_there_and_an_unpublished_one_is_gone(tmp_path):
    (tmp_path / "draft").write_text("x")
    publish_file(tmp_path / "draft", tmp_path / "a" / "b" / "c")
    assert (tmp_path / "a" / "b" / "c").read_text() == "x"
    assert not (tmp_path / "draft").exists()
    for _ in range(2):
        unpublish_file(tmp_path / "a" / "b" / "c")
        assert list((tmp_path / "a" / "b").iterdir()) == []


def test_a_written_file_replaces_an_older_one_and_a_failure_leaves_no_draft(tmp_path):
    for content in (b"old", b"new"):
        write_file(tmp_path / "a" / "b", content)
        assert (tmp_path / "a" / "b").read_bytes() == content
    with pytest.raises(OSError, match="directory") as caught:
        write_file(tmp_path / "a", b"x")
    assert (caught.value.filename, caught.value.filename2) == (str(tmp_path / "a"), None)
    assert [path.name for path in tmp_path.rglob("*")] == ["a", "b"]


def test_a_json_file_comes_from_a_draft_in_the_work_folder(tmp_path):
    work = tmp_path / "work"
    with pytest.raises(FileNotFoundError):  # as after another process has taken the folder over
        publish_json(tmp_path / "a" / "b.json", {}, work)
    work.mkdir()
    for count in (1, 2):
        publish_json(tmp_path / "a" / "b.json", {"count": count}, work)
        assert json.loads((tmp_path / "a" / "b.json").read_text()) == {"count": count}
    assert list(work.iterdir()) == []


def test_each_change_is_synced_the_file_before_its_new_name(tmp_path, monkeypatch):
    synced = []

    def fsync(descriptor):
        path = Path(f"/proc/self/fd/{descriptor}").readlink()
        synced.append((os.path.relpath(path, tmp_path), (tmp_path / "a" / "file").exists()))

    monkeypatch.setattr(os, "fsync", fsync)
    (tmp_path / "draft").write_text("x")
    publish_file(tmp_path / "draft", tmp_path / "a" / "file")
    unpublish_file(tmp_path / "a" / "file")
    assert synced == [(".", False), ("draft", False), ("a", True), ("a", False)]


def test_a_folder_is_made_with_its_parents_and_may_exist(tmp_path):
    for _ in range(2):
        make_folder(tmp_path / "a" / "b" / "c")
    assert (tmp_path / "a" / "b" / "c").is_dir()
