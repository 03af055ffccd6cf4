import fcntl
import os
import shutil
import signal
import subprocess
import sys

import pytest

from shards.format.index import ShardIndex
from stylefinetune.data import shard_copier
from stylefinetune.data.shard_copier import ShardCopier
from stylefinetune.errors import UserError
from tests.programs import ROOT, run

PROGRAM = """
import os, signal, sys
from pathlib import Path
from shards.format.index import ShardIndex
from stylefinetune import copying

root, folder, last = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
index, synced, fsync = ShardIndex.load(root), 0, os.fsync

def sync_and_die(file):
    global synced
    fsync(file)
    synced += 1
    if synced == last:
        os.kill(os.getpid(), signal.SIGKILL)

os.fsync = sync_and_die
copying.Copier(index, index.table["shard"].to_pylist(), folder).work(60)
"""


@pytest.fixture
def source(original_shards, tmp_path):
    """A DIR of four tars, three of training and one of testing, to do what one likes with."""
    return shutil.copytree(original_shards, tmp_path / "DIR")


def copier(source, folder):
    index = ShardIndex.load(source)
    return ShardCopier(index, index.table["shard"].to_pylist(), folder)


def copied(source, folder):
    """Copies all in one go, and returns how many bytes that were."""
    made = copier(source, folder)
    made.work(60)
    assert made.done
    return made.copied


def tars(root):
    return {path.relative_to(root).as_posix(): path for path in root.rglob("*.tar")}


def bodies(root):
    return {name: path.read_bytes() for name, path in tars(root).items()}


def inodes(root):
    return {name: path.stat().st_ino for name, path in tars(root).items()}


def spoil(source, row):
    """Makes one picture of the training split no picture, without a trace in the file's time; returns its name."""
    entries = ShardIndex.load(source).entries("train")
    path = source / entries.shard[row]
    times = path.stat()
    with path.open("r+b") as tar:
        tar.seek(int(entries.offset[row]))
        tar.write(b"\0" * int(entries.length[row]))
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    return f"{path}: {entries.key[row]}"


def test_all_is_copied_once_and_a_second_start_copies_nothing(source, tmp_path, capsys):
    folder = tmp_path / "stage" / "f00d"
    assert copied(source, folder) == sum(map(len, bodies(source).values()))
    assert bodies(folder) == bodies(source)
    assert len(bodies(folder)) == 4
    before = inodes(folder)
    with (folder / ".lock").open() as other:  # another run's process, which copies another split
        fcntl.flock(other, fcntl.LOCK_EX)
        assert copied(source, folder) == 0
    assert inodes(folder) == before
    assert sorted(path.name for path in folder.iterdir()) == [".lock", "test", "train"]
    assert capsys.readouterr().err == ""


def test_only_the_shards_that_are_asked_for_are_copied(source, tmp_path):
    index = ShardIndex.load(source)
    ShardCopier(index, ["test/00000.tar"], tmp_path / "stage").work(60)
    assert list(tars(tmp_path / "stage")) == ["test/00000.tar"]


def test_copies_that_are_torn_or_changed_and_those_whose_source_has_are_named_and_made_again(source, tmp_path, capsys):
    folder = tmp_path / "stage"
    copied(source, folder)
    before = inodes(folder)
    torn, touched, stale, whole = sorted(tars(folder))
    (folder / torn).write_bytes((folder / torn).read_bytes()[:-512])
    os.utime(folder / torn, ns=(0, (source / torn).stat().st_mtime_ns))
    (folder / touched).write_bytes(b"x" * (folder / touched).stat().st_size)
    (source / stale).write_bytes((source / stale).read_bytes())
    size = sum((source / name).stat().st_size for name in (torn, touched, stale))
    assert copied(source, folder) == size
    assert bodies(folder) == bodies(source)
    assert inodes(folder)[whole] == before[whole]
    told = capsys.readouterr().err.splitlines()
    assert [line.split(": ")[2].split()[0] for line in told] == [str(folder / name) for name in (torn, touched, stale)]
    assert told[0].endswith("has changed since it was copied, or its source has; copying it again")


@pytest.mark.parametrize("change", [os.utime, lambda file: os.truncate(file, 1024)])
def test_a_source_that_changes_meanwhile_is_named(source, tmp_path, change):
    working = copier(source, tmp_path / "stage")
    while working.copied == 0:
        working.work(0)
    first = min(tars(source))
    change(source / first)
    with pytest.raises(UserError, match=rf"{first} changed while it was copied; start again once nobody writes it"):
        working.work(60)
    assert [path.name for path in (tmp_path / "stage").rglob("*.*")] == [".lock"]
    (source / first).unlink()
    with pytest.raises(UserError, match=rf"{first}: No such file or directory"):
        copied(source, tmp_path / "stage")


def test_a_picture_that_is_corrupt_at_its_source_is_named_and_copied_as_it_is(source, tmp_path, capsys):
    name = spoil(source, 5)
    copied(source, tmp_path / "stage")
    assert bodies(tmp_path / "stage") == bodies(source)
    (line,) = capsys.readouterr().err.splitlines()
    assert f"1 pictures aren't those that the index names, the first of them {name}; copied as they are" in line


def misread(monkeypatch, place):
    """Has the byte at `place` of the first shard be read as another, once."""
    honest = shard_copier._read
    state = {"passed": 0, "done": False}

    def read(reader, count):
        piece = bytearray(honest(reader, count))
        at = place - state["passed"]
        state["passed"] += len(piece)
        if not state["done"] and at < len(piece):
            piece[at] ^= 1
            state["done"] = True
        return bytes(piece)

    monkeypatch.setattr(shard_copier, "_read", read)


def test_a_picture_that_was_read_wrongly_is_put_right(source, tmp_path, monkeypatch, capsys):
    offset = int(ShardIndex.load(source).entries("test").offset[0])
    misread(monkeypatch, offset + 100)
    copied(source, tmp_path / "stage")
    assert bodies(tmp_path / "stage") == bodies(source)
    assert capsys.readouterr().err == ""


def test_a_picture_that_reads_differently_each_time_is_named(source, tmp_path, monkeypatch):
    index = ShardIndex.load(source)
    entries = index.entries("train")
    row = min(range(len(entries)), key=lambda row: (entries.shard[row], entries.offset[row]))
    name = spoil(source, row)
    misread(monkeypatch, int(entries.offset[row]))
    with pytest.raises(UserError, match="reads differently each time; is its disk or network sound") as error:
        ShardCopier(index, [entries.shard[row]], tmp_path / "stage").work(60)
    assert str(error.value).startswith(name)
    assert tars(tmp_path / "stage") == {}


@pytest.mark.parametrize("last", [1, 2, 5])
def test_after_a_kill_at_any_moment_the_rest_is_copied(source, tmp_path, last):
    """The first shard is written but not renamed, then renamed; then the third is written but not renamed."""
    folder = tmp_path / "stage"
    done = run(sys.executable, "-c", PROGRAM, source, folder, last)
    assert done.returncode == -signal.SIGKILL
    whole = inodes(folder)
    assert len(whole) == last // 2
    assert len(list(folder.rglob("*.part"))) == last % 2
    left = sum(path.stat().st_size for name, path in tars(source).items() if name not in whole)
    assert copied(source, folder) == left
    assert whole.items() <= inodes(folder).items()
    assert bodies(folder) == bodies(source)
    assert list(folder.rglob("*.part")) == []


def test_who_waits_for_a_copier_that_is_killed_takes_over(source, tmp_path):
    folder = tmp_path / "stage"
    program = PROGRAM.replace("signal.SIGKILL", "signal.SIGSTOP")  # stands still with the lock
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
    assert 0 < waiting.copied < sum(map(len, bodies(source).values()))
    assert bodies(folder) == bodies(source)


@pytest.fixture
def small_disk(tmp_path):
    """A disk of its own, of three megabytes."""
    place = tmp_path / "small"
    place.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", place], check=False).returncode:
        pytest.skip("needs the right to mount a tmpfs")
    yield place
    subprocess.run(["umount", place], check=True)


def test_a_disk_that_is_too_small_is_told_before_anything_is_copied(source, small_disk):
    with (source / min(tars(source))).open("ab") as tar:
        tar.write(b"\0" * 2_000_000)
    with pytest.raises(UserError, match=r"has 3\.1 MB free and the shards need 4\.\d MB; make room, or give data\."):
        copied(source, small_disk / "stage")
    assert tars(small_disk) == {}


def test_a_disk_that_fills_up_meanwhile_is_one_line_and_what_is_whole_stays(source, small_disk):
    left_over = small_disk / "stage" / "train" / "00001.tar.part"  # of a copier that was killed
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
    whole = tars(small_disk / "stage")
    assert whole
    assert all(path.read_bytes() == (source / name).read_bytes() for name, path in whole.items())
    assert list(small_disk.rglob("*.part")) == []
    (small_disk / "others").unlink()
    copied(source, small_disk / "stage")
    assert bodies(small_disk / "stage") == bodies(source)


def test_a_folder_that_cannot_be_made_is_one_line(source, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"file/stage: Not a directory; see data\.stage_dir"):
        copied(source, tmp_path / "file" / "stage")
