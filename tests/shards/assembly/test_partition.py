"""Partitions of one DIR made by separate processes from a loopback server, and their merge."""

import collections
import json

import pytest

from shards.__main__ import main
from shards.assembly import partition
from shards.config.schema import Partition
from shards.errors import ShardsError
from shards.storage.shard_dir import load_shard_dir
from tests.assembly import (
    assert_tidy,
    outcomes_by_row,
    serve_pictures,
    stable_outcomes,
    start_assemble,
    statuses,
    tars_and_index,
    wait_for_blocks,
)
from tests.loopback import Answer


@pytest.fixture
def listed(server, draw_jpg, write_list):
    """A list of 60 pictures; 24 are the same placeholder, and one is not found."""
    rows = serve_pictures(server, draw_jpg, 60)
    for number in range(60):
        if number % 5 in {1, 2}:
            server.add(f"/{number}.jpg", Answer(draw_jpg(1000)))
    server.add("/8.jpg", Answer(status=404))
    return write_list(rows)


def run_tasks(path, out, count, *flags):
    """Run all partitions in parallel and return the output of each."""
    tasks = [start_assemble(path, out, f"--partition={index}/{count}", *flags) for index in range(count)]
    outputs = [task.communicate(timeout=100) for task in tasks]
    assert [task.returncode for task in tasks] == [0] * count, outputs
    return [output for output, _ in outputs]


def test_parallel_partitions_and_a_merge_equal_one_assembly(server, listed, run_assemble, tmp_path, capsys):
    run_assemble(list=listed, rows_per_shard=5, out=tmp_path / "once")
    assert collections.Counter(statuses(tmp_path / "once").values()) == {"kept": 35, "placeholder": 24, "not_found": 1}
    server.requests.clear()
    out = tmp_path / "a DIR"
    outputs = run_tasks(listed, out, 3)
    assert f"Partition 2/3 is complete. When all 3 partitions are, run: shards merge '{out}'" in outputs[2]
    assert len(server.requests) == len({request.path for request in server.requests}) == 60
    assert not (out / "index.parquet").exists()
    assert not (out / "outcomes.parquet").exists()
    for _ in range(2):
        assert main(["merge", str(out)]) == 0
        printed = capsys.readouterr().out
        assert "13 complete blocks, none is missing; index.parquet lists the kept pictures of 60 rows" in printed
        assert tars_and_index(out) == tars_and_index(tmp_path / "once")
        assert stable_outcomes(out) == stable_outcomes(tmp_path / "once")
        assert (out / "blocks" / "rows.parquet").read_bytes() == (
            tmp_path / "once" / "blocks" / "rows.parquet"
        ).read_bytes()
        assert_tidy(out)
    assert len(server.requests) == 60


def test_a_merge_with_missing_blocks_names_the_partitions_and_writes_nothing(listed, run_assemble, tmp_path, capsys):
    out = tmp_path / "out"
    for index in (0, 2):
        run_assemble(list=listed, rows_per_shard=5, partition=f"{index}/5")
    (out / "test" / "00002.tar").unlink()
    before = sorted(out.rglob("*"))
    assert main(["merge", str(out)]) == 1
    assert capsys.readouterr().out.splitlines() == [
        f"{out}: 8 of 13 blocks missing; nothing was merged",
        "partition 1/5: 3 missing; run assemble --partition 1/5 to make them",
        "partition 2/5: 1 missing; run assemble --partition 2/5 to make them",
        "partition 3/5: 2 missing; run assemble --partition 3/5 to make them",
        "partition 4/5: 2 missing; run assemble --partition 4/5 to make them",
    ]
    assert sorted(out.rglob("*")) == before
    run_assemble(list=listed, rows_per_shard=5)  # one machine completes the work of several
    run_assemble(list=listed, rows_per_shard=5, out=tmp_path / "once")
    assert tars_and_index(out) == tars_and_index(tmp_path / "once")
    assert_tidy(out)
    (out / "train" / "00000.tar").unlink()
    assert main(["merge", str(out)]) == 1
    assert capsys.readouterr().out.splitlines()[1:] == ["run the assemble command again to make them"]


def test_a_grown_dir_may_have_another_number_of_partitions(listed, run_assemble, tmp_path):
    run_assemble(list=listed, rows_per_shard=5, out=tmp_path / "once")
    for images, count in ((23, 2), (-1, 3)):
        for index in range(count):
            run_assemble(list=listed, rows_per_shard=5, images=images, partition=f"{index}/{count}")
        assert partition.merge_partitions(tmp_path / "out").missing == {}
    assert tars_and_index(tmp_path / "out") == tars_and_index(tmp_path / "once")
    assert stable_outcomes(tmp_path / "out") == stable_outcomes(tmp_path / "once")
    assert_tidy(tmp_path / "out")


def test_a_retry_by_partitions_requests_the_failed_rows_once(server, listed, draw_jpg, run_assemble, tmp_path):
    run_assemble(list=listed, rows_per_shard=5)
    server.add("/8.jpg", Answer(draw_jpg(8)))
    server.requests.clear()
    for index in range(3):
        run_assemble(list=listed, rows_per_shard=5, retry="not_found", partition=f"{index}/3")
    assert [request.path for request in server.requests] == ["/8.jpg"]
    partition.merge_partitions(tmp_path / "out")
    assert outcomes_by_row(tmp_path / "out")[8]["status"] == "kept"
    assert_tidy(tmp_path / "out")


def test_a_second_task_of_a_partition_is_refused_and_a_killed_one_is_resumed(
    server, listed, draw_jpg, run_assemble, tmp_path
):
    run_assemble(list=listed, rows_per_shard=5, out=tmp_path / "once")
    shard_dir = load_shard_dir(tmp_path / "once")
    last = shard_dir.rows_of(partition.blocks_of_partition(shard_dir, Partition(1, 2))[-1])
    pending = next(row["row"] for row in last if row["row"] % 5 not in {1, 2})
    server.add(f"/{pending}.jpg", Answer(draw_jpg(pending), after_requests=10**9))  # never answered
    server.requests.clear()
    with start_assemble(listed, tmp_path / "out", "--partition=1/2") as first:
        try:
            wait_for_blocks(first, tmp_path / "out", 5)
            refused = rf"partition 1/2, is in use by process {first.pid} on "
            with pytest.raises(ShardsError, match=refused):
                run_assemble(list=listed, rows_per_shard=5, partition="1/2")
            with pytest.raises(ShardsError, match=refused):
                partition.merge_partitions(tmp_path / "out")
            with pytest.raises(ShardsError, match=f"{refused}.*another number of partitions, list or setting"):
                run_assemble(list=listed, rows_per_shard=5, partition="0/2", placeholder_urls=3)
            run_assemble(list=listed, rows_per_shard=5, partition="0/2")
            assert first.poll() is None
        finally:
            first.kill()
    server.add(f"/{pending}.jpg", Answer(draw_jpg(pending)))
    printed = run_assemble(list=listed, rows_per_shard=5, partition="1/2")
    assert "25 of 30 were done before" in printed
    assert partition.merge_partitions(tmp_path / "out").missing == {}
    assert tars_and_index(tmp_path / "out") == tars_and_index(tmp_path / "once")
    assert_tidy(tmp_path / "out")


def test_a_merge_completes_an_interrupted_block_replacement(listed, run_assemble, tmp_path):
    out = tmp_path / "out"
    for index in range(2):
        run_assemble(list=listed, rows_per_shard=5, partition=f"{index}/2")
    redo = out / "blocks" / "train-00003.0123.redo"
    redo.mkdir()
    (redo / "complete").touch()
    (out / "train" / "00003.tar").rename(redo / "shard.tar")  # the state just before the first new file is renamed
    assert partition.merge_partitions(out).missing == {}
    run_assemble(list=listed, rows_per_shard=5, out=tmp_path / "once")
    assert tars_and_index(out) == tars_and_index(tmp_path / "once")
    assert_tidy(out)


def test_with_more_partitions_than_blocks_some_have_no_work(listed, run_assemble, tmp_path):
    assert "Downloading 0 images" in run_assemble(list=listed, rows_per_shard=40, partition="8/9")
    assert partition.merge_partitions(tmp_path / "out").missing == {0: 1, 1: 1, 2: 1}


def test_a_damaged_number_of_partitions_is_ignored(listed, run_assemble, tmp_path):
    run_assemble(list=listed, rows_per_shard=40, partition="8/9")
    for content in ("", "[]", json.dumps({"partitions": 0}), json.dumps({"partitions": "9"})):
        (tmp_path / "out" / "blocks" / "tasks.json").write_text(content)
        assert partition.merge_partitions(tmp_path / "out").partitions == 1


def test_a_merge_without_shards_creates_nothing(tmp_path):
    with pytest.raises(ShardsError, match="not a shard directory"):
        partition.merge_partitions(tmp_path / "out")
    assert list(tmp_path.iterdir()) == []
