import fcntl
import os
import threading

import pytest

from stylefinetune.data.staging import stream_reader
from stylefinetune.data.staging.stream_reader import close_removed, open_shard
from stylefinetune.errors import DataError


@pytest.fixture
def stream(tmp_path):
    folder = tmp_path / "stream-1"
    folder.mkdir()
    return folder


def test_a_missing_file_is_an_error_where_shards_are_read_in_place(tmp_path):
    with pytest.raises(FileNotFoundError):
        open_shard(tmp_path, "a.tar")


def test_a_copy_is_waited_for(stream):
    def copy():
        (stream / "part").write_bytes(b"content")
        (stream / "part").replace(stream / "a.tar")

    thread = threading.Timer(0.3, copy)
    thread.start()
    descriptor = open_shard(stream, "a.tar")
    assert os.pread(descriptor, 10, 0) == b"content"
    thread.join()


def test_a_failure_and_the_death_of_the_process_that_copies_end_the_wait(stream, monkeypatch):
    monkeypatch.setattr(stream_reader, "_MAX_UNLOCKED", 3)
    with pytest.raises(DataError, match="has died; run the same command again"):
        open_shard(stream, "a.tar")
    with (stream / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        (stream / "failure").write_text("the store fails")
        with pytest.raises(DataError, match=r"^the store fails$"):
            open_shard(stream, "a.tar")


def test_removed_files_are_closed(stream, tmp_path):
    files = {}
    for number, name in enumerate(("a", "b")):
        (stream / name).write_bytes(b"")
        files[number] = os.open(stream / name, os.O_RDONLY)
    removed = files[0]
    (stream / "a").unlink()
    close_removed(tmp_path, files)  # a folder in which shards are read in place
    assert len(files) == 2
    close_removed(stream, files)
    assert list(files) == [1]
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(removed)
