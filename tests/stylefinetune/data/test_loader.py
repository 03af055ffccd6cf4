import os
import resource
import signal

import psutil
import pytest
import torch

from stylefinetune.data.dataset import PictureDataset, open_index, open_split
from stylefinetune.data.loader import load_batches
from stylefinetune.data.sampler import RankBatchSampler
from stylefinetune.errors import DataError, is_out_of_memory
from tests.programs import python
from tests.stylefinetune.data.loading import CPU, data_config, open_pictures, read_batches


@pytest.mark.parametrize("workers", [0, 1, 3])
@pytest.mark.parametrize("window", [0, 2])
def test_pictures_crops_and_mirrors_are_the_same_on_any_number_of_ranks_and_workers(pixel_shards, workers, window):
    shuffled = {"shuffle": True, "shuffle_window": window}
    whole = read_batches(open_pictures(pixel_shards, **shuffled))
    parts = [
        read_batches(open_pictures(pixel_shards, **shuffled), rank=rank, world_size=3, workers=workers)
        for rank in range(3)
    ]
    for batch, *slices in zip(whole, *parts, strict=True):
        assert [part.size for part in slices] == [10, 10, 10]
        for field in ("pictures", "labels", "positions"):
            assert torch.equal(getattr(batch, field), torch.cat([getattr(part, field) for part in slices]))
        for field in ("top", "left", "mirror"):
            assert torch.equal(getattr(batch.crops, field), torch.cat([getattr(part.crops, field) for part in slices]))


@pytest.mark.parametrize("window", [0, 2])
def test_a_resumed_loader_continues_with_the_next_picture(pixel_shards, window):
    whole = read_batches(open_pictures(pixel_shards, shuffle=True, shuffle_window=window), stop=100)
    later = read_batches(open_pictures(pixel_shards, shuffle=True, shuffle_window=window), start=70, stop=100)
    for ours, theirs in zip(later, whole[7:], strict=True):
        assert torch.equal(ours.pictures, theirs.pictures)
        assert torch.equal(ours.crops.left, theirs.crops.left)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_rank_without_pictures_gets_an_empty_batch(pixel_shards, workers):
    (empty,) = load_batches(open_pictures(pixel_shards), RankBatchSampler(0, 2, 2, 2, 3), workers, CPU)
    assert empty.pictures.shape == (0, 48, 48, 3)
    assert (len(empty.labels), empty.size) == (0, 2)


@pytest.mark.parametrize("process", ["worker", "rank"])
def test_running_out_of_memory_is_an_error_of_the_worker_or_of_the_rank(pixel_shards, process):
    others = psutil.Process().children()
    decoded = load_batches(open_pictures(pixel_shards), RankBatchSampler(0, 40000, 10, 0, 1), 1, CPU)
    (worker,) = (child for child in psutil.Process().children() if child not in others)
    next(decoded)
    before = resource.getrlimit(resource.RLIMIT_AS)
    try:
        resource.prlimit(worker.pid if process == "worker" else 0, resource.RLIMIT_AS, (0, before[1]))
        line = r"a decoding process has failed: .*allocate memory" if process == "worker" else r"unable to mmap"
        with pytest.raises(DataError if process == "worker" else RuntimeError, match=line) as error:
            list(decoded)
        assert isinstance(error.value, DataError) or is_out_of_memory(error.value)
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


class Failing(PictureDataset):
    """Pictures whose worker calls `fail` at position 20."""

    fail = staticmethod(lambda: None)

    def __getitems__(self, positions):
        if 20 in positions:
            self.fail()
        return super().__getitems__(positions)


def run_out_of_memory():
    raise MemoryError("can't take\n40 GB")


@pytest.mark.parametrize(
    ("fail", "line"),
    [
        (run_out_of_memory, r"a decoding process has failed: .*40 GB; out of memory or of open files\? lower"),
        (
            lambda: os.kill(os.getpid(), signal.SIGKILL),
            r"has failed: (DataLoader worker .*(killed by signal|exited unexpectedly)|it was killed)",
        ),
    ],
    ids=["exception", "killed"],
)
def test_a_failed_worker_is_a_data_error(pixel_shards, monkeypatch, fail, line):
    monkeypatch.setattr(Failing, "fail", staticmethod(fail))
    data = data_config(pixel_shards)
    failing = Failing(open_split(open_index(data), "train"), data.phase(training=True), seed=7)
    with pytest.raises(DataError, match=line) as error:
        read_batches(failing, workers=1)
    assert "\n" not in str(error.value)


# Semaphores and the pipes to workers need open files.
FEW_FILES = """
import os, resource, sys
from stylefinetune.data.loader import load_batches
from stylefinetune.data.sampler import RankBatchSampler
from stylefinetune.errors import run_command
from tests.stylefinetune.data.loading import CPU, open_pictures

def load(_):
    pictures, used = open_pictures(sys.argv[1]), len(os.listdir("/proc/self/fd"))
    resource.setrlimit(resource.RLIMIT_NOFILE, (used + 2, used + 2))
    next(load_batches(pictures, RankBatchSampler(0, 40, 10, 0, 1), 2, CPU))

sys.exit(run_command(load, []))
"""


def test_workers_that_cannot_be_started_are_one_line(pixel_shards):
    done = python("-c", FEW_FILES, pixel_shards)
    assert done.returncode == 2, done.stderr
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: rank 0: 2 decoding processes can't be started (Too many open files); they need ")
