import collections
import contextlib
import os
import resource
import signal
import warnings

import numpy as np
import psutil
import pytest
import torch

from shards.format import order
from shards.format.order import RankBatchSampler
from stylefinetune.data.dataset import PictureDataset, open_index, open_split
from stylefinetune.data.loader import BatchLoader, load_batches
from stylefinetune.errors import DataError, is_out_of_memory
from tests.programs import python
from tests.stylefinetune.data.loading import CPU, data_config, open_pictures, read_batches


def open_with(kind, shards):
    data = data_config(shards)
    return kind(open_split(open_index(data), "train"), data.phase(training=True), seed=7)


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


def test_more_workers_than_cpus_are_not_warned_of(pixel_shards):
    pictures = open_pictures(pixel_shards)
    cpus = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(cpus)})
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            BatchLoader(pictures, 10, 2, CPU)
    finally:
        os.sched_setaffinity(0, cpus)
    assert caught == []


@pytest.mark.parametrize("workers", [0, 1])
def test_a_rank_without_pictures_gets_an_empty_batch(pixel_shards, workers):
    (empty,) = load_batches(open_pictures(pixel_shards), RankBatchSampler(0, 2, 2, 2, 3), workers, CPU)
    assert empty.pictures.shape == (0, 48, 48, 3)
    assert (len(empty.labels), empty.size) == (0, 2)


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_batches_that_the_caller_keeps_do_not_change(pixel_shards, workers):
    """The memory of a batch is used again only after the batch and all views of it are deleted."""
    decoded = load_batches(open_pictures(pixel_shards), RankBatchSampler(0, 600, 10, 0, 1), workers, CPU)
    last_pictures, copies = [], []
    for number, batch in enumerate(decoded):
        if number % 3 == 0:
            last_pictures.append(batch.pictures[-1])
            copies.append(batch.pictures[-1].clone())
    assert len(copies) == 20
    assert torch.equal(torch.stack(last_pictures), torch.stack(copies))


@pytest.mark.parametrize("workers", [0, 1])
def test_the_memory_of_deleted_batches_is_used_again(pixel_shards, workers):
    decoded = load_batches(open_pictures(pixel_shards), RankBatchSampler(0, 600, 10, 0, 1), workers, CPU)
    assert len({batch.pictures.data_ptr() for batch in decoded}) <= 2 * workers + 3


def test_micro_batches_that_are_used_at_a_time_are_not_copied(pixel_shards):
    decoded = load_batches(open_pictures(pixel_shards), RankBatchSampler(0, 600, 10, 0, 1), 1, CPU, at_once=4)
    addresses = set()
    for _ in range(15):
        micro_batches = [next(decoded) for _ in range(4)]
        addresses.update(batch.pictures.data_ptr() for batch in micro_batches)
        del micro_batches
    assert len(addresses) <= 2 + 4 + 2


@pytest.mark.parametrize("workers", [0, 2])
def test_a_loader_reads_again_with_the_same_processes_even_if_it_was_interrupted(pixel_shards, workers):
    expected = read_batches(open_pictures(pixel_shards), stop=100)
    others = psutil.Process().children()
    loader = BatchLoader(open_pictures(pixel_shards), 10, workers, CPU)
    processes = [child for child in psutil.Process().children() if child not in others]
    assert len(processes) == workers
    for stop in (1, 3, 10, 10):
        decoded = loader.load(RankBatchSampler(0, 100, 10, 0, 1))
        for ours, theirs in zip(range(stop), expected, strict=False):
            batch = next(decoded)
            assert torch.equal(batch.pictures, theirs.pictures), ours
            assert torch.equal(batch.positions, theirs.positions)
        assert [child for child in psutil.Process().children() if child not in others] == processes
    del loader, decoded
    assert [child for child in psutil.Process().children() if child not in others] == []


def test_only_the_rank_computes_the_permutation(pixel_shards, monkeypatch):
    """At 100 million pictures, it takes 400 MB and several seconds in each process that computes it."""
    rank, permutation = os.getpid(), order._permutation

    def compute(*arguments):
        assert os.getpid() == rank
        return permutation(*arguments)

    monkeypatch.setattr(order, "_permutation", compute)
    pictures = open_pictures(pixel_shards, shuffle=True)
    epochs = RankBatchSampler(0, 3 * len(pictures.entries), 10, 0, 1)
    labels = [batch.labels for batch in load_batches(pictures, epochs, 2, CPU)]
    rows = pictures.order.rows_at(range(3 * len(pictures.entries)))
    assert torch.cat(labels).tolist() == pictures.entries.label[rows].tolist()


class Allocating(PictureDataset):
    """Pictures that need as much memory as large ones, and more for each batch; freed memory might be used again."""

    def read(self, positions, rows, pictures):
        self.__dict__.setdefault("memory", []).append(np.empty(2**28, np.uint8))
        return super().read(positions, rows, pictures)


@contextlib.contextmanager
def refused_memory(pid):
    """Refuses a process more memory than it has."""
    before = resource.prlimit(pid, resource.RLIMIT_AS)
    resource.prlimit(pid, resource.RLIMIT_AS, (0, before[1]))
    try:
        yield
    finally:
        resource.prlimit(pid, resource.RLIMIT_AS, before)


def test_a_worker_that_runs_out_of_memory_is_a_data_error(pixel_shards):
    others = psutil.Process().children()
    decoded = load_batches(open_with(Allocating, pixel_shards), RankBatchSampler(0, 40000, 10, 0, 1), 1, CPU)
    (worker,) = (child for child in psutil.Process().children() if child not in others)
    next(decoded)
    resource.prlimit(worker.pid, resource.RLIMIT_AS, (0, resource.RLIM_INFINITY))
    with pytest.raises(DataError, match=r"a decoding process has failed: .*Unable to allocate 256\. MiB"):
        collections.deque(decoded, maxlen=0)


def test_a_rank_that_runs_out_of_memory_is_not_an_error_of_a_worker(original_shards):
    large = open_pictures(original_shards, image_size=1000)
    decoded = load_batches(large, RankBatchSampler(0, 40000, 10, 0, 1), 1, CPU)
    next(decoded)
    with refused_memory(os.getpid()), pytest.raises(MemoryError, match="Unable to allocate") as error:
        list(decoded)  # keeps all batches
    assert is_out_of_memory(error.value)


class Failing(PictureDataset):
    """Pictures whose worker calls `fail` at position 20."""

    fail = staticmethod(lambda: None)

    def read(self, positions, rows, pictures):
        if 20 in positions:
            self.fail()
        return super().read(positions, rows, pictures)


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
    with pytest.raises(DataError, match=line) as error:
        read_batches(open_with(Failing, pixel_shards), workers=1)
    assert "\n" not in str(error.value)


# Semaphores and the pipes to workers need open files.
FEW_FILES = """
import os, resource, sys
from stylefinetune.data.loader import load_batches
from shards.format.order import RankBatchSampler
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
