"""Whole runs on one GPU: with and without a CUDA graph and resident pictures, resumed, and with NCCL."""

import contextlib

import pytest
import torch
import torch.distributed as dist
from torch.distributed import HashStore
from torch.nn.parallel import DistributedDataParallel

from stylefinetune.distributed.world import World
from stylefinetune.train import main
from tests.programs import NARROW, ROOT, metrics
from tests.stylefinetune.engines.every_stage import OPTIM, slice_of, with_torch

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")]

SCHEDULE = ["--train.max_iter=16", "--train.test_interval=4", "--train.display=1", "--checkpoint.snapshot=7"]
BOTH = ["--train.cuda_graph=true", "--data.resident=true"]


@pytest.fixture(autouse=True)
def forgets_settings():
    """Undo what a run sets for its process."""
    yield
    torch.use_deterministic_algorithms(False)
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False


@pytest.fixture
def train(pixel_shards, tmp_path, monkeypatch):
    """Trains with further flags, and returns the losses and the last checkpoint's tensors."""
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")

    def train(name, *flags):
        run_dir = tmp_path / name
        with contextlib.chdir(ROOT):
            main([*NARROW, *SCHEDULE, f"--data.shards={pixel_shards}", f"--run_dir={run_dir}", *flags])
        losses = {
            (e["phase"], e["iteration"]): e["loss"] for phase in ("train", "test") for e in metrics(run_dir, phase)
        }
        newest = max((run_dir / "checkpoints").glob("iter_*"), key=lambda path: int(path.name[5:]))
        return losses, [path.read_bytes() for path in sorted(newest.glob("*.safetensors"))]

    return train


@pytest.mark.parametrize("precision", ["fp32", "tf32", "bf16", "fp16"])
def test_a_deterministic_run_has_the_same_bits_with_a_graph_resident_pictures_or_both(train, precision):
    same = ["--train.deterministic=true", f"--train.precision={precision}"]
    plain = train("plain", *same, "--data.resident=false")
    assert train("graph", *same, "--data.resident=false", BOTH[0]) == plain
    assert train("resident", *same, BOTH[1]) == plain
    assert train("both", *same, *BOTH) == plain
    assert train("micro", *same, *BOTH, "--train.iter_size=2", "--data.batch_size=5")[0].keys() == plain[0].keys()


@pytest.mark.parametrize("flags", [[], BOTH], ids=["eager", "graph and resident"])
@pytest.mark.parametrize("channels_last", ["true", "false"])
def test_a_resumed_deterministic_run_is_bitwise_equal_to_an_uninterrupted_one(train, flags, channels_last):
    same = ["--train.deterministic=true", f"--train.channels_last={channels_last}", *flags]
    losses, weights = train("straight", *same)
    train("resumed", *same, "--train.max_iter=9")
    again = train("resumed", *same)
    del again[0]["test", 9]  # where the first part ended
    assert again == (losses, weights)


def test_by_default_a_run_keeps_its_pictures_in_the_memory_of_the_gpu(train, capfd):
    train("default", "--data.batch_size=20")
    assert "Decoding 52 pictures into memory" in capfd.readouterr().err


def test_data_parallel_training_with_nccl_has_the_bits_of_training_without(monkeypatch):
    """NCCL takes one rank for each GPU, so this group has one; the engine, which is told of two, averages over it."""
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True)
    device = torch.device("cuda", 0)
    optim = type(OPTIM)(layers=OPTIM.layers, weight_decay=0.0)
    alone, both = World(rank=0, size=1, device=device), World(rank=0, size=2, device=device)
    dist.init_process_group("nccl", store=HashStore(), rank=0, world_size=1)
    try:
        single, parallel = with_torch(alone, optim=optim), with_torch(both, optim=optim)
        assert isinstance(parallel.replica, DistributedDataParallel)
        for iteration in range(3):
            batch = slice_of(alone, 8, seed=iteration)
            losses = [
                single.train_step(iteration, [batch], 0.01),
                parallel.train_step(iteration, [batch], 0.005),  # the gradients are twice as large
            ]
            assert torch.equal(*losses)
        ours, theirs = single.state().parameters, parallel.state().parameters
        assert [name for name in ours if not torch.equal(ours[name], theirs[name])] == []
        assert both.sum(torch.ones(3)).tolist() == [1, 1, 1]
    finally:
        dist.destroy_process_group()


def test_deepspeed_trains_on_a_gpu_with_resident_pictures(train):
    fed = train("fed", "--engine=deepspeed", "--train.deterministic=true", "--data.resident=false")
    assert train("resident", "--engine=deepspeed", "--train.deterministic=true", "--data.resident=true") == fed
