"""A run has the same pictures and results on any number of ranks, loader workers and nodes.

The training split has 193 pictures in a shard of 192 and a shard of one, so that ranks share a shard. The test split
has 148 pictures in batches of 7, and its last batch one picture for up to four ranks. A third split has two pictures.
One picture of each of the first two splits is corrupt.
"""

import contextlib
import json
import os
import subprocess
import sys
from itertools import chain

import pytest

from shards.format.index import ShardIndex
from tests.programs import ROOT, assemble, free_port, metrics, python

PROGRAM = ROOT / "tests" / "end_to_end" / "any_world.py"
LAUNCH = [sys.executable, "-m", "torch.distributed.run", "--rdzv_backend=c10d"]
CORRUPT = (("train", 77), ("test", 101))
ENVIRONMENT = {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}


@pytest.fixture(scope="module")
def shards(golden, tmp_path_factory):
    folder = tmp_path_factory.mktemp("any world")
    micro = golden / "micro"
    train, test = ((micro / f"{split}.txt").read_text().splitlines(keepends=True) for split in ("train", "test"))
    for split, lines in (("train", train), ("test", test[:-2]), ("few", test[-2:])):
        (folder / f"{split}.txt").write_text("".join(lines))
    lists = [f"--list={split}={folder / split}.txt" for split in ("train", "test", "few")]
    assemble(*lists, f"--out={folder / 'DIR'}", "--rows_per_shard=192", cwd=micro)
    for split, row in CORRUPT:
        entries = ShardIndex.load(folder / "DIR").entries(split)
        with (folder / "DIR" / entries.shard[row]).open("r+b") as tar:
            tar.seek(int(entries.offset[row]))
            tar.write(bytes(int(entries.length[row])))
    return folder / "DIR"


def flags_of(golden, shards, run_dir, workers):
    micro = golden / "micro"
    return [
        f"--data.shards={shards}",
        "--data.image_size=80",
        "--data.crop_size=0",
        "--data.test.crop_size=75",
        "--data.mirror=false",
        f"--data.mean_file={micro / 'mean.binaryproto'}",
        "--data.batch_size=10",
        "--data.test.batch_size=7",
        f"--data.workers={workers}",
        "--model.widths=[8,16,24,24,16,32,32]",
        "--model.dropout=0",
        "--optim.stepsize=20",
        "--optim.base_lr=0.001",
        "--train.max_iter=60",
        "--train.test_interval=20",
        "--train.display=1",
        "--tracking.wandb=disabled",
        f"--weights={micro / 'finetune' / 'micro_ft_iter_0.caffemodel'}",
        f"--run_dir={run_dir}",
    ]


def read(folder, ranks):
    """Return, for each number of workers, every iteration's pictures in the order of the ranks."""
    parts = [json.loads((folder / f"rank_{rank}.json").read_text()) for rank in range(ranks)]
    return {
        workers: [list(chain(*slices)) for slices in zip(*(part[workers] for part in parts), strict=True)]
        for workers in parts[0]
    }


@pytest.fixture(scope="module")
def alone(golden, shards, tmp_path_factory):
    """One process without torchrun."""
    folder = tmp_path_factory.mktemp("alone")
    done = python(PROGRAM, folder, shards, *flags_of(golden, shards, folder / "run", 1))
    assert done.returncode == 0, done.stderr
    return folder


def skipped_lines(run_dir):
    return [line for line in (run_dir / "train.log").read_text().splitlines() if " is corrupt and skipped " in line]


def assert_the_same_run(folder, alone, ranks):
    expected = read(alone, 1)
    given = read(folder, ranks)
    assert list(given) == ["1", "2", "3", "4"]
    for workers in given:
        assert given[workers] == expected["1"]
    assert len({picture[0] for batch in expected["1"] for picture in batch}) == 193
    ours, theirs = metrics(folder / "run", "train"), metrics(alone / "run", "train")
    assert [e["iteration"] for e in ours] == list(range(60))
    assert [e["loss"] for e in ours] == pytest.approx([e["loss"] for e in theirs], abs=1e-5)
    for one, other in zip(ours, theirs, strict=True):
        norms = {name: value for name, value in other.items() if name.startswith(("grad_norm", "update_ratio"))}
        assert len(norms) == 1 + 2 * 8
        # Over the iterations, differences in the last digits of the gradients grow.
        assert {name: one[name] for name in norms} == pytest.approx(norms, rel=1e-3)
    ours, theirs = metrics(folder / "run", "test"), metrics(alone / "run", "test")
    assert [e["iteration"] for e in ours] == [0, 20, 40, 60]
    assert [(e["correct"], e["count"]) for e in ours] == [(e["correct"], e["count"]) for e in theirs]
    assert ours[0]["count"] == 147
    lines = [[line.split("] ")[1] for line in skipped_lines(run_dir)] for run_dir in (folder / "run", alone / "run")]
    assert lines[0] == lines[1]
    assert [line.split("DIR/")[1].split("/")[0] for line in lines[0]] == ["test", "train"]  # each once
    assert ours[0]["loss"] == pytest.approx(theirs[0]["loss"], abs=1e-6)  # the same weights
    assert [e["loss"] for e in ours] == pytest.approx([e["loss"] for e in theirs], abs=1e-5)


def test_any_number_of_loader_workers_yields_the_same_pictures(alone):
    given = read(alone, 1)
    assert all(batches == given["1"] for batches in given.values())
    first, second = given["1"][0], given["1"][1]
    assert first != second
    assert {mirror for batch in given["1"] for *_, mirror, _ in batch} == {True, False}


@pytest.mark.parametrize("ranks", [pytest.param(2, marks=pytest.mark.slow), 3, pytest.param(4, marks=pytest.mark.slow)])
def test_any_number_of_ranks_matches_one_process(golden, shards, alone, tmp_path, ranks):
    flags = flags_of(golden, shards, tmp_path / "run", ranks)
    done = python(PROGRAM, tmp_path, shards, *flags, ranks=ranks)
    assert done.returncode == 0, done.stderr
    assert_the_same_run(tmp_path, alone, ranks)


@pytest.mark.slow
def test_two_nodes_of_two_ranks_match_one_process(golden, shards, alone, tmp_path):
    flags = flags_of(golden, shards, tmp_path / "run", 1)
    where = [
        "--nnodes=2",
        "--nproc_per_node=2",
        f"--rdzv_endpoint=127.0.0.1:{free_port()}",
        "--rdzv_id=any",
        "--local_addr=127.0.0.1",
    ]
    command = [str(part) for part in (*LAUNCH, *where, PROGRAM, tmp_path, shards, *flags)]
    with contextlib.ExitStack() as stack:
        outputs = [(tmp_path / f"agent_{agent}.txt").open("w+") for agent in range(2)]
        agents = [
            stack.enter_context(
                subprocess.Popen(command, cwd=ROOT, env={**os.environ, **ENVIRONMENT}, stdout=output, stderr=output)
            )
            for output in outputs
        ]
        try:
            codes = [agent.wait(120) for agent in agents]
        finally:
            for agent in agents:
                agent.terminate()  # and it its workers
    assert codes == [0, 0], [output.seek(0) or output.read() for output in outputs]
    assert_the_same_run(tmp_path, alone, 4)


def test_fewer_test_pictures_than_ranks_are_each_counted_once(alone):
    evaluate = ["-m", "stylefinetune.evaluate", alone / "run", "--split=few", "--workers=1"]
    one, four = (python(*evaluate, ranks=ranks) for ranks in (1, 4))
    assert (one.returncode, four.returncode) == (0, 0), one.stderr + four.stderr
    assert " of 2)" in one.stdout
    assert four.stdout == one.stdout
