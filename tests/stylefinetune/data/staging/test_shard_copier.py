import fcntl
import os
import shutil
import signal
import subprocess
import sys

import pytest

from shards.format.index import ShardIndex
from stylefinetune.data.staging import shard_copier
from stylefinetune.data.staging.shard_copier import ShardCopier
from stylefinetune.errors import UserError
from tests.programs import ROOT, python

PROGRAM = """
import os, signal, sys
from pathlib import Path
from shards.format.index import ShardIndex
from stylefinetune.data.staging.shard_copier import ShardCopier

root, folder, last = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
index, synced, fsync = ShardIndex.load(root), 0, os.fsync

def sync_and_die(file):
    global synced
    fsync(file)
    synced += 1
    if synced == last:
        os.kill(os.getpid(), signal.SIGKILL)

os.fsync = sync_and_die
ShardCopier(index, index.table["shard"].to_pylist(), folder).work(60)
"""


@pytest.fixture
def source(original_shards, tmp_path):
    """A private copy of a DIR with four tars, three for training and one for testing."""
    return shutil.copytree(original_shards, tmp_path / "DIR")


def copier(source, folder):
    index = ShardIndex.load(source)
    return ShardCopier(index, index.table["shard"].to_pylist(), folder)


def copied(source, folder):
    """Copy everything and return the number of copied bytes."""
    made = copier(source, folder)
    made.work(60)
    assert made.done
    return made.copied


def tars(root):
    return {path.relative_to(root).as_posix(): path for path in root.rglob("*.tar")}


def contents(root):
    return {name: path.read_bytes() for name, path in tars(root).items()}


def inodes(root):
    return {name: path.stat().st_ino for name, path in tars(root).items()}


def corrupt_picture(source, row):
    """Overwrite a training picture with zeros, keep the file's time, and return the picture's location."""
    entries = ShardIndex.load(source).entries("train")
    path = source / entries.shard[row]
    times = path.stat()
    with path.open("r+b") as tar:
        tar.seek(int(entries.offset[row]))
        tar.write(b"\0" * int(entries.length[row]))
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    return f"{path}: {entries.key[row]}"


def test_everything_is_copied_once_and_a_second_start_copies_nothing(source, tmp_path, capsys):
    folder = tmp_path / "stage" / "f00d"
    assert copied(source, folder) == sum(map(len, contents(source).values()))
    assert contents(folder) == contents(source)
    assert len(contents(folder)) == 4
    before = inodes(folder)
    with (folder / ".lock").open() as other:  # another run copies another split
        fcntl.flock(other, fcntl.LOCK_EX)
        assert copied(source, folder) == 0
    assert inodes(folder) == before
    assert sorted(path.name for path in folder.iterdir()) == [".lock", "test", "train"]
    assert capsys.readouterr().err == ""


def test_only_the_requested_shards_are_copied(source, tmp_path):
    index = ShardIndex.load(source)
    ShardCopier(index, ["test/00000.tar"], tmp_path / "stage").work(60)
    assert list(tars(tmp_path / "stage")) == ["test/00000.tar"]


def test_truncated_changed_and_outdated_copies_are_reported_and_copied_again(source, tmp_path, capsys):
    folder = tmp_path / "stage"
    copied(source, folder)
    before = inodes(folder)
    truncated, changed, outdated, complete = sorted(tars(folder))
    (folder / truncated).write_bytes((folder / truncated).read_bytes()[:-512])
    os.utime(folder / truncated, ns=(0, (source / truncated).stat().st_mtime_ns))
    (folder / changed).write_bytes(b"x" * (folder / changed).stat().st_size)
    (source / outdated).write_bytes((source / outdated).read_bytes())
    size = sum((source / name).stat().st_size for name in (truncated, changed, outdated))
    assert copied(source, folder) == size
    assert contents(folder) == contents(source)
    assert inodes(folder)[complete] == before[complete]
    lines = capsys.readouterr().err.splitlines()
    assert [line.split(": ")[2].split()[0] for line in lines] == [
        str(folder / name) for name in (truncated, changed, outdated)
    ]
    assert lines[0].endswith("or its source has changed since it was copied; copying it again")


@pytest.mark.parametrize("change", [os.utime, lambda file: os.truncate(file, 1024)])
def test_a_shard_that_changes_while_it_is_copied_is_an_error(source, tmp_path, change):
    working = copier(source, tmp_path / "stage")
    while working.copied == 0:
        working.work(0)
    first = min(tars(source))
    change(source / first)
    with pytest.raises(
        UserError, match=rf"{first} changed while it was copied; start again once no process writes to it"
    ):
        working.work(60)
    assert [path.name for path in (tmp_path / "stage").rglob("*.*")] == [".lock"]
    (source / first).unlink()
    with pytest.raises(UserError, match=rf"{first} is missing; restore it"):
        copied(source, tmp_path / "stage")


def test_a_picture_that_is_corrupt_at_its_source_is_reported_and_copied_as_it_is(source, tmp_path, capsys):
    name = corrupt_picture(source, 5)
    copied(source, tmp_path / "stage")
    assert contents(tmp_path / "stage") == contents(source)
    (line,) = capsys.readouterr().err.splitlines()
    assert f"1 pictures differ from the index's checksums, the first is {name}; they are copied as they are" in line


def misread(monkeypatch, offset):
    """Flip a bit of the byte at `offset` of the first shard, the first time it is read."""
    real_read = shard_copier._read
    state = {"passed": 0, "done": False}

    def read(reader, count, name):
        piece = bytearray(real_read(reader, count, name))
        at = offset - state["passed"]
        state["passed"] += len(piece)
        if not state["done"] and at < len(piece):
            piece[at] ^= 1
            state["done"] = True
        return bytes(piece)

    monkeypatch.setattr(shard_copier, "_read", read)


def test_a_picture_with_a_read_error_is_corrected(source, tmp_path, monkeypatch, capsys):
    offset = int(ShardIndex.load(source).entries("test").offset[0])
    misread(monkeypatch, offset + 100)
    copied(source, tmp_path / "stage")
    assert contents(tmp_path / "stage") == contents(source)
    assert capsys.readouterr().err == ""


def test_a_picture_that_reads_differently_each_time_is_an_error(source, tmp_path, monkeypatch):
    index = ShardIndex.load(source)
    entries = index.entries("train")
    row = min(range(len(entries)), key=lambda row: (entries.shard[row], entries.offset[row]))
    name = corrupt_picture(source, row)
    misread(monkeypatch, int(entries.offset[row]))
    with pytest.raises(UserError, match="reads differently each time; check its disk and its network") as error:
        ShardCopier(index, [entries.shard[row]], tmp_path / "stage").work(60)
    assert str(error.value).startswith(name)
    assert tars(tmp_path / "stage") == {}


@pytest.mark.parametrize("last", [1, 2, 5])
def test_after_a_kill_the_rest_is_copied(source, tmp_path, last):
    """The first shard is written but not renamed, then renamed; then the third is written but not renamed."""
    folder = tmp_path / "stage"
    done = python("-c", PROGRAM, source, folder, last)
    assert done.returncode == -signal.SIGKILL
    complete = inodes(folder)
    assert len(complete) == last // 2
    assert len(list(folder.rglob("*.part"))) == last % 2
    missing = sum(path.stat().st_size for name, path in tars(source).items() if name not in complete)
    assert copied(source, folder) == missing
    assert complete.items() <= inodes(folder).items()
    assert contents(folder) == contents(source)
    assert list(folder.rglob("*.part")) == []


def test_a_waiting_process_takes_over_from_a_killed_one(source, tmp_path):
    folder = tmp_path / "stage"
    program = PROGRAM.replace("signal.SIGKILL", "signal.SIGSTOP")  # pauses while it holds the lock
    other = subprocess.Popen(
        [sys.executable, "-c", program, source, folder, "3"], cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}
    )
    try:
        assert os.WIFSTOPPED(os.waitpid(other.pid, os.WUNTRACED)[1])
        waiting = copier(source, folder)
        waiting.work(0.3)
        assert (waiting.done, waiting.has_lock, waiting.copied) == (False, False, 0)
    finally:
        other.kill()
        other.wait(20)
    waiting.work(20)
    assert waiting.done
    assert 0 < waiting.copied < sum(map(len, contents(source).values()))
    assert contents(folder) == contents(source)


@pytest.fixture
def small_disk(tmp_path):
    """A separate disk of three megabytes."""
    folder = tmp_path / "small"
    folder.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", folder], check=False).returncode:
        pytest.skip("needs permission to mount a tmpfs")
    yield folder
    subprocess.run(["umount", folder], check=True)


def test_a_disk_that_is_too_small_is_an_error_before_anything_is_copied(source, small_disk):
    with (source / min(tars(source))).open("ab") as tar:
        tar.write(b"\0" * 2_000_000)
    with pytest.raises(UserError, match=r"has 3\.1 MB free and the shards need 4\.\d MB; free some space, set data\."):
        copied(source, small_disk / "stage")
    assert tars(small_disk) == {}


def test_complete_copies_remain_if_the_disk_fills_up(source, small_disk):
    left_over = small_disk / "stage" / "train" / "00001.tar.part"  # left by a killed process
    left_over.parent.mkdir(parents=True)
    left_over.write_bytes(b"x" * 2_000_000)
    working = copier(source, small_disk / "stage")
    while not tars(small_disk):
        working.work(0)
    with (small_disk / "others").open("wb", buffering=0) as others:
        while others.write(b"\0" * 4096) == 4096 and shutil.disk_usage(small_disk).free > 4096:
            pass
    with pytest.raises(UserError, match=r"the copy in .*/stage failed: No space left on device; see data\.stage_dir"):
        working.work(60)
    complete = tars(small_disk / "stage")
    assert complete
    assert all(path.read_bytes() == (source / name).read_bytes() for name, path in complete.items())
    assert list(small_disk.rglob("*.part")) == []
    (small_disk / "others").unlink()
    copied(source, small_disk / "stage")
    assert contents(small_disk / "stage") == contents(source)


def test_a_folder_that_cannot_be_created_is_an_error(source, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"file/stage: Not a directory; see data\.stage_dir"):
        copied(source, tmp_path / "file" / "stage")
