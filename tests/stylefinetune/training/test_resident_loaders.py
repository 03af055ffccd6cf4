import contextlib
import dataclasses
import signal
from types import SimpleNamespace

import pytest
import torch

from stylefinetune.config.data import DataConfig
from stylefinetune.config.schema import Config, TrainConfig
from stylefinetune.data.resident.pictures import ResidentPictures
from stylefinetune.distributed.world import World
from stylefinetune.errors import Stopped, UserError
from stylefinetune.train import main
from stylefinetune.training import resident_loaders
from stylefinetune.training.resident_loaders import load_resident
from tests.programs import NARROW, ROOT, metrics, python, train_on
from tests.stylefinetune.data.loading import open_pictures

SCHEDULE = ["--train.max_iter=12", "--train.test_interval=4", "--train.display=1", "--checkpoint.snapshot=5"]
ON_GPU = World(rank=0, size=1, device=torch.device("cuda", 0))
ALONE = World(rank=0, size=1, device=torch.device("cpu"))


def train(*flags):
    with contextlib.chdir(ROOT):
        main([*NARROW, *SCHEDULE, *flags])


def results(run_dir):
    losses = [
        (phase, entry["iteration"], entry["loss"]) for phase in ("train", "test") for entry in metrics(run_dir, phase)
    ]
    folders = [run_dir / "checkpoints" / f"iter_{number}" for number in (5, 10, 12)]
    weights = [
        (folder / name).read_bytes() for folder in folders for name in ("model.safetensors", "optimizer.safetensors")
    ]
    return losses, weights


@pytest.fixture(scope="module")
def fed(pixel_shards, tmp_path_factory):
    run_dir = tmp_path_factory.mktemp("fed") / "run"
    train(f"--data.shards={pixel_shards}", f"--run_dir={run_dir}", "--data.resident=false")
    return results(run_dir)


def test_a_run_is_bitwise_equal_to_one_that_reads_each_batch(fed, pixel_shards, tmp_path, capfd):
    train(f"--data.shards={pixel_shards}", f"--run_dir={tmp_path}", "--data.resident=true", "--data.workers=1")
    assert "Decoding 52 pictures into memory, 0.0 GB on each rank's device" in capfd.readouterr().err
    assert results(tmp_path) == fed


def test_a_run_may_resume_the_other_way(fed, pixel_shards, tmp_path):
    flags = [f"--data.shards={pixel_shards}", f"--run_dir={tmp_path}"]
    train(*flags, "--train.max_iter=10", "--data.resident=true")
    train(*flags, "--data.resident=false")
    losses, weights = results(tmp_path)
    assert [entry for entry in losses if entry[:2] != ("test", 10)] == fed[0]
    assert weights == fed[1]


def test_each_of_several_ranks_has_all_pictures(pixel_shards, tmp_path):
    flags = [*NARROW, *SCHEDULE, f"--data.shards={pixel_shards}"]
    both = tmp_path / "resident", tmp_path / "fed"
    for run_dir, resident in zip(both, ("true", "false"), strict=True):
        done = train_on(2, *flags, f"--run_dir={run_dir}", f"--data.resident={resident}")
        assert done.returncode == 0, done.stderr
    assert results(both[0]) == results(both[1])


WITH_LITTLE_MEMORY = """
import sys
from stylefinetune import train
from stylefinetune.training import resident_loaders

resident_loaders._free_memory = lambda _world: 52 * 48 * 48 * 3  # of which a part is left for the network
train.main(sys.argv[1:])
"""


def test_ranks_hold_a_share_each_if_all_pictures_need_too_much_memory(pixel_shards, tmp_path):
    flags = [*NARROW, *SCHEDULE, f"--data.shards={pixel_shards}"]
    done = python("-c", WITH_LITTLE_MEMORY, *flags, f"--run_dir={tmp_path / 'shares'}", "--data.resident=true", ranks=3)
    assert done.returncode == 0, done.stderr
    assert "Decoding 52 pictures into memory, 0.0 GB on each rank's device; the ranks send each other" in done.stderr
    done = train_on(3, *flags, f"--run_dir={tmp_path / 'fed'}", "--data.resident=false")
    assert done.returncode == 0, done.stderr
    assert results(tmp_path / "shares") == results(tmp_path / "fed")


@dataclasses.dataclass
class Logged:
    """A tracker that keeps the lines of the log."""

    lines: list[str] = dataclasses.field(default_factory=list)

    def log(self, line):
        self.lines.append(line)


def a_run(pictures, world, *, resident=None, iterations=100, stopped_by=None):
    config = Config(data=DataConfig(resident=resident, batch_size=10), train=TrainConfig(max_iter=iterations))
    preemption = SimpleNamespace(signal=stopped_by, requested=lambda: stopped_by is not None)
    return SimpleNamespace(
        config=config, world=world, tracker=Logged(), train_set=pictures, test_set=None, preemption=preemption
    )


@pytest.fixture
def free_memory(monkeypatch):
    """Sets the free memory of a GPU that has none here."""

    def free_memory(amount):
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _device: (amount, 2 * amount))

    return free_memory


def test_without_enough_memory_the_batches_are_read_and_the_log_says_why(pixel_shards, free_memory):
    pictures = open_pictures(pixel_shards)
    needed = 41 * 48 * 48 * 3
    free_memory(int(needed / 0.75) - 1)
    run = a_run(pictures, ON_GPU)
    assert load_resident(run, 0) is None
    (line,) = run.tracker.lines
    assert line.startswith(
        "Pictures are read for each batch: they need 0.0 GB, more than 75% of a GPU's free memory of"
    )
    with pytest.raises(UserError, match=r"^data\.resident is true, but they need .* GB; remove it, or set it to false"):
        load_resident(a_run(pictures, ON_GPU, resident=True), 0)


def test_by_default_no_rank_holds_a_share(pixel_shards, monkeypatch):
    monkeypatch.setattr(resident_loaders, "_free_memory", lambda _world: 41 * 48 * 48 * 3)
    run = a_run(open_pictures(pixel_shards), dataclasses.replace(ON_GPU, size=2))
    assert load_resident(run, 0) is None
    (line,) = run.tracker.lines
    assert line.endswith("they are too many for one GPU; data.resident true gives each rank a share of them")


def test_pictures_that_change_each_time_are_read_for_each_batch_and_the_log_says_why(original_shards):
    pictures = open_pictures(original_shards, resize="shorter_side")
    run = a_run(pictures, ON_GPU)
    assert load_resident(run, 0) is None
    (line,) = run.tracker.lines
    assert line == "Pictures are read for each batch: each training picture is cut or changed anew whenever it is read"
    with pytest.raises(UserError, match=r"^data\.resident is true, but each training picture is cut or changed anew "):
        load_resident(a_run(pictures, ON_GPU, resident=True), 0)


@pytest.mark.parametrize(
    ("world", "resident", "iterations", "start", "expected"),
    [
        (ALONE, None, 100, 0, False),
        (ALONE, True, 1, 0, True),
        (ON_GPU, False, 100, 0, False),
        (ON_GPU, None, 5, 0, True),  # 50 pictures of 41
        (ON_GPU, None, 5, 1, False),
        (ON_GPU, True, 5, 1, True),
    ],
)
def test_by_default_a_gpu_keeps_the_pictures_of_a_run_that_reads_them_all(
    pixel_shards, free_memory, monkeypatch, world, resident, iterations, start, expected
):
    free_memory(10**9)
    monkeypatch.setattr(ResidentPictures, "__init__", lambda *_: setattr(_[0], "dataset", _[1]))
    monkeypatch.setattr(ResidentPictures, "fill", lambda *_: iter(()))
    run = a_run(open_pictures(pixel_shards), world, resident=resident, iterations=iterations)
    assert (load_resident(run, start) is not None) == expected


def test_a_signal_stops_the_decoding(pixel_shards):
    run = a_run(open_pictures(pixel_shards), ALONE, resident=True, stopped_by=signal.SIGTERM)
    run.config = dataclasses.replace(run.config, data=dataclasses.replace(run.config.data, workers=0))
    with pytest.raises(Stopped, match="stopped by SIGTERM while decoding pictures into memory; run the same command"):
        load_resident(run, 0)
