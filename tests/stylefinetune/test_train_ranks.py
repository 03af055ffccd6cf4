"""Training on several ranks agrees with training on one, and a resumed run with an uninterrupted one."""

import shutil

import pytest

from shards.format.index import ShardIndex
from tests.programs import NARROW, TWENTY, metrics, train, train_on


def test_two_ranks_match_one(pixel_shards, tmp_path):
    """With random crops, mirrors and a shuffled order; without dropout, which is seeded per rank."""
    same = [*NARROW, *TWENTY, "--model.dropout=0", "--data.shuffle=true", f"--data.shards={pixel_shards}"]
    train(*same, f"--run_dir={tmp_path / 'one'}")
    done = train_on(2, *same, f"--run_dir={tmp_path / 'two'}", "--data.workers=1")
    assert done.returncode == 0, done.stderr
    assert "Warning" not in done.stderr
    for phase in ("train", "test"):
        one, two = metrics(tmp_path / "one", phase), metrics(tmp_path / "two", phase)
        assert [e["loss"] for e in two] == pytest.approx([e["loss"] for e in one], abs=1e-5)
    one, two = metrics(tmp_path / "one", "test"), metrics(tmp_path / "two", "test")
    assert [(e["correct"], e["count"]) for e in one] == [(e["correct"], e["count"]) for e in two]


def test_fewer_pictures_than_ranks_in_a_batch_and_in_the_last_test_batch(pixel_shards, tmp_path):
    """A batch of 2 has no picture for the third rank; the last of 11 test pictures is a batch for one rank."""
    few = [*NARROW, *TWENTY, "--model.dropout=0", "--data.batch_size=2", "--data.test.batch_size=10"]
    few = [*few, f"--data.shards={pixel_shards}"]
    train(*few, f"--run_dir={tmp_path / 'one'}")
    done = train_on(3, *few, f"--run_dir={tmp_path / 'three'}")
    assert done.returncode == 0, done.stderr
    one, three = (
        [entry["loss"] for phase in ("train", "test") for entry in metrics(tmp_path / name, phase)]
        for name in ("one", "three")
    )
    assert three == pytest.approx(one, abs=1e-5)


def test_a_resumed_run_is_bitwise_equal_to_an_uninterrupted_one_on_three_ranks(pixel_shards, tmp_path):
    """With dropout, crops and mirrors. Three ranks, because the sum of two does not depend on their order."""
    same = [*NARROW, f"--data.shards={pixel_shards}", "--train.display=1", "--train.test_interval=4"]
    same = [*same, "--checkpoint.snapshot=6", "--train.average_loss=3"]
    uninterrupted, resumed = tmp_path / "uninterrupted", tmp_path / "resumed"
    first = train_on(3, *same, "--train.max_iter=12", f"--run_dir={uninterrupted}")
    assert first.returncode == 0, first.stderr
    shutil.copytree(uninterrupted, resumed)
    shutil.rmtree(resumed / "checkpoints" / "iter_12")
    second = train_on(3, *same, "--train.max_iter=12", f"--run_dir={resumed}")
    assert second.returncode == 0, second.stderr
    assert f"Restoring previous solver status from {resumed}/checkpoints/iter_6" in second.stderr
    for file in ("model.safetensors", "optimizer.safetensors", "progress.json"):
        actual, expected = (
            (folder / "checkpoints" / "iter_12" / file).read_bytes() for folder in (resumed, uninterrupted)
        )
        assert actual == expected
    for phase in ("train", "test"):
        actual, expected = [
            [(e["iteration"], e["loss"], e.get("lr"), e.get("accuracy")) for e in metrics(folder, phase)]
            for folder in (resumed, uninterrupted)
        ]
        assert actual == expected


def test_corrupt_pictures_are_named_and_skipped_on_any_number_of_ranks(original_shards, tmp_path):
    shards = tmp_path / "shards"
    shutil.copytree(original_shards, shards)
    index = ShardIndex.load(shards)
    named = []
    for split, row in (("train", 5), ("train", 33), ("test", 4)):
        entries = index.entries(split)
        with (shards / entries.shard[row]).open("r+b") as tar:
            tar.seek(int(entries.offset[row]))
            tar.write(b"\0" * int(entries.length[row]))
        named.append(f"{shards / entries.shard[row]}: {entries.key[row]} is corrupt and skipped (")
    same = [*NARROW, *TWENTY, "--model.dropout=0", "--data.max_corrupt=0.1", f"--data.shards={shards}"]
    train(*same, f"--run_dir={tmp_path / 'one'}")
    done = train_on(2, *same, f"--run_dir={tmp_path / 'two'}", "--data.workers=1")
    assert done.returncode == 0, done.stderr
    for run_dir in (tmp_path / "one", tmp_path / "two"):
        log = (run_dir / "train.log").read_text()
        assert [log.count(line) for line in named] == [1, 1, 1]
        assert [entry["count"] for entry in metrics(run_dir, "test")] == [10, 10, 10]
    for phase in ("train", "test"):
        one, two = metrics(tmp_path / "one", phase), metrics(tmp_path / "two", phase)
        assert [entry["loss"] for entry in two] == pytest.approx([entry["loss"] for entry in one], abs=1e-5)
