import contextlib
import os
import shutil
import signal
import time

import pytest

from stylefinetune.config.data import DataConfig
from stylefinetune.data.dataset import PictureDataset, open_index, open_split
from stylefinetune.data.staging.index_copy import shards_folder
from stylefinetune.data.staging.source import file_version, shard_source
from stylefinetune.data.staging.stream import (
    FAILURE_FILE,
    ShardStream,
    is_streamed,
    make_plan,
    stream_folder,
    stream_limit,
)
from stylefinetune.data.staging.stream_reader import open_shard
from stylefinetune.errors import DataError, UserError
from tests.programs import NARROW, metrics, python, train_on
from tests.stylefinetune.data.staging.stores import change, upload

STOP = 100  # pictures of 41, so 2.4 epochs


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"shuffle_window": 2}, True),
        ({"shuffle": False}, True),
        ({}, False),
        ({"shuffle_window": 2, "resident": True}, False),
        ({"shuffle_window": 2, "shards": "DIR"}, False),
    ],
)
def test_orders_that_read_each_shard_from_front_to_back_are_streamed(settings, expected):
    assert is_streamed(DataConfig(**{"shards": "s3://bucket/DIR", **settings})) is expected


class Opened:
    """A stream of the training split of `shards`, whose pictures a test reads as decoding processes do."""

    def __init__(self, url, limit, window=2):
        config = DataConfig(shards=url, shuffle_window=window, batch_size=5, image_size=48, crop_size=0)
        self.index = open_index(config)
        pictures = PictureDataset(open_split(self.index, "train"), config.phase(training=True), 1)
        self.entries, self.order = pictures.entries, pictures.order
        self.folder = stream_folder(self.index, "runs/a")
        plan = make_plan(self.index, self.entries, self.order, 5, limit)
        self.stream = ShardStream(self.index, plan, self.folder, limit, rank=0)

    def read(self, start, stop, whole):
        """Read pictures, compare them with those of the folder `whole`, and return the most bytes on the disk."""
        most = 0
        for position in range(start, stop):
            row = self.order.row(position)
            shard, offset, length = (
                column[row] for column in (self.entries.shard, self.entries.offset, self.entries.length)
            )
            descriptor = open_shard(self.folder, shard)
            assert os.pread(descriptor, int(length), int(offset)) == _read(whole / shard, int(offset), int(length))
            os.close(descriptor)
            with contextlib.suppress(FileNotFoundError):  # a copy may be removed or renamed at this moment
                most = max(most, sum(path.stat().st_size for path in self.folder.rglob("*.tar*")))
            self.stream.advance(position + 1)
        return most


def _read(path, offset, length):
    with path.open("rb") as file:
        return os.pread(file.fileno(), length, offset)


@pytest.fixture
def store(memory, many_shards):
    """The URL of the shards; the process that copies has them in its memory, since it is a fork of this one."""
    return upload(many_shards, f"{memory}/DIR")


def total_bytes(root):
    return sum(path.stat().st_size for path in (root / "train").glob("*.tar"))


def test_every_picture_is_read_with_a_part_of_the_shards_on_the_disk(store, many_shards):
    limit = int(0.7 * total_bytes(many_shards))
    opened = Opened(store, limit)
    opened.stream.start(0, STOP)
    assert 0 < opened.read(0, STOP, many_shards) <= limit
    opened.stream.process.join(20)
    assert not opened.folder.exists()  # the run is finished


def test_copies_are_kept_where_all_fit_and_used_again_after_a_kill(store, many_shards):
    opened = Opened(store, 10**9)
    opened.stream.start(0, STOP)
    opened.read(0, 41, many_shards)
    opened.stream.process.kill()
    opened.stream.process.join()
    half = opened.folder / "train" / "00000.tar.part"
    half.write_bytes(b"half")
    short = opened.folder / "train" / "00001.tar"
    short.write_bytes(short.read_bytes()[:-512])
    before = {path.name: path.stat().st_ctime_ns for path in opened.folder.rglob("*.tar")}
    again = Opened(store, 10**9)
    source = shard_source(again.index.root)
    again.stream.start(41, STOP)
    again.read(41, 42, many_shards)
    deadline = time.monotonic() + 60
    while file_version(short) != source.version("train/00001.tar") and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not half.exists()
    assert again.read(42, 60, many_shards) == total_bytes(many_shards)
    changed = {path.name for path in again.folder.rglob("*.tar") if path.stat().st_ctime_ns != before[path.name]}
    assert changed == {"00001.tar"}
    again.stream.process.kill()


def test_a_window_that_does_not_fit_is_one_line_that_names_it(store, many_shards):
    with pytest.raises(UserError, match=r"need .* which may take .* \(data\.stage_bytes\); lower data\.shuffle_window"):
        Opened(store, int(0.7 * total_bytes(many_shards)), window=8)


def test_a_shard_that_disappears_from_the_store_is_reported_to_those_who_wait(store, many_shards):
    opened = Opened(store, 10**9)
    change(store, opened.entries.shard[opened.order.row(0)], None)
    opened.stream.start(0, STOP)
    with pytest.raises(DataError, match=rf"^data\.shards: {store}: not found"):
        opened.read(0, STOP, many_shards)
    assert (opened.folder / FAILURE_FILE).is_file()


def test_the_limit_is_a_share_of_the_free_space_or_what_the_test_pictures_leave(store):
    config = DataConfig(shards=store)
    index, folder = open_index(config), stream_folder(open_index(config), "runs/a")
    free = shutil.disk_usage(shards_folder(config)).free
    assert 0.5 * free < stream_limit(config, index, folder, []) < free
    (index.root / "test").mkdir()
    (index.root / "test" / "00000.tar").write_bytes(b"1234")
    assert stream_limit(DataConfig(shards=store, stage_bytes=10), index, folder, ["test/00000.tar"]) == 6


def test_training_from_a_store_is_bitwise_equal_to_training_from_disk_also_after_a_kill(bucket, many_shards, tmp_path):
    url = upload(many_shards, f"{bucket}/DIR")
    flags = [*NARROW, "--data.shuffle_window=2", "--data.workers=1", "--train.max_iter=12", "--train.display=1"]
    flags += ["--train.test_interval=6", "--checkpoint.snapshot=4"]
    limit = int(0.85 * total_bytes(many_shards)) + sum(p.stat().st_size for p in (many_shards / "test").glob("*.tar"))
    here = train_on(2, *flags, f"--data.shards={many_shards}", f"--run_dir={tmp_path / 'here'}")
    assert here.returncode == 0, here.stderr
    stored = [*flags, f"--data.shards={url}", f"--run_dir={tmp_path / 'stored'}", f"--data.stage_bytes={limit}"]
    stored.append(f"--data.stage_dir={tmp_path / 'local'}")
    fatal = tmp_path / "fatal.py"
    fatal.write_text(FATAL)
    assert -signal.SIGKILL in python(fatal, *stored, ranks=2).returncodes
    (staged,) = (tmp_path / "local").iterdir()
    assert list(staged.glob("stream-*/train/*.tar"))
    done = train_on(2, *stored)
    assert done.returncode == 0, done.stderr
    assert "Restoring previous solver status" in done.stderr
    assert not list(staged.glob("stream-*"))
    assert len(list(staged.glob("test/*.tar"))) == 3
    for phase in ("train", "test"):
        losses, expected = (
            {e["iteration"]: e["loss"] for e in metrics(tmp_path / name, phase)} for name in ("stored", "here")
        )
        assert losses == expected


FATAL = """
import os, signal, sys
from stylefinetune.training import loaders
from stylefinetune.errors import run_command
from stylefinetune.train import main

advance = loaders.ShardStream.advance

def die(stream, position):
    advance(stream, position)
    if position == 70:  # in the second epoch, after a checkpoint
        os.kill(os.getpid(), signal.SIGKILL)

loaders.ShardStream.advance = die
sys.exit(run_command(main, sys.argv[1:]))
"""
