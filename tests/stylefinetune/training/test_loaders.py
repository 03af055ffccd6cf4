import psutil
import pytest
import torch

from stylefinetune.config.cli import parse_config
from stylefinetune.data.sampler import sampler_for_testing, sampler_for_training
from stylefinetune.distributed.world import World
from stylefinetune.training.loaders import StreamLoader, start_loaders
from stylefinetune.training.setup import prepare_training
from tests.programs import NARROW

ALONE = World(rank=0, size=1, device=torch.device("cpu"))


@pytest.fixture
def config(pixel_shards, tmp_path):
    flags = ["--data.workers=1", "--train.iter_size=3", "--data.test.batch_size=4"]
    return parse_config([*NARROW, *flags, f"--data.shards={pixel_shards}", f"--run_dir={tmp_path / 'run'}"])


def test_the_processes_of_tests_are_kept_between_the_tests(config):
    others = set(psutil.Process().children())
    setup = prepare_training(config, ALONE)
    loaders = start_loaders(config, setup.train_set, setup.test_set, ALONE)
    processes = set(psutil.Process().children()) - others
    assert len(processes) == 2
    training = loaders.train.load(sampler_for_training(config, 0, 0, 1))
    for iteration in (0, 10):
        assert len(next(training).labels) == 10
        tested = loaders.test.load(sampler_for_testing(config, len(setup.test_set.entries), iteration, 0, 1))
        assert [batch.size for batch in tested] == [4, 4, 3]
        assert set(psutil.Process().children()) - others == processes


def test_without_a_test_split_there_is_no_test_loader(config):
    setup = prepare_training(config, ALONE)
    loaders = start_loaders(config, setup.train_set, None, World(rank=2, size=3, device=torch.device("cpu")))
    assert loaders.test is None
    assert len(next(loaders.train.load(sampler_for_training(config, 0, 2, 3))).labels) == 3


class Recorder:
    """A stream that records its calls."""

    def __init__(self):
        self.positions = []

    def start(self, start, stop):
        self.positions = [start, stop]

    def advance(self, position):
        self.positions.append(position)


def test_a_stream_is_told_the_end_of_each_batch_that_was_received(config):
    setup = prepare_training(config, ALONE)
    stream = Recorder()
    loaders = start_loaders(config, setup.train_set, None, ALONE, stream)
    assert isinstance(loaders.train, StreamLoader)
    batches = loaders.train.load(sampler_for_training(config, 2, 0, 1))
    stop = config.train.max_iter * 30
    assert stream.positions == [60, stop]
    assert [next(batches).positions.tolist()[0] for _ in range(8)] == list(range(60, 140, 10))
    assert stream.positions[2:] == list(range(70, 150, 10))
