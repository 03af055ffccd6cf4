import itertools
import json
import shutil
import sys

import pyarrow.parquet as pq
import pytest

from shards import files
from shards.assembly.deduplicate import DuplicateRules
from shards.assembly.finalize import finalize, write_rules
from shards.errors import ShardsError
from shards.format.index import METADATA_KEY
from shards.storage import file_lock, journal, shard_dir
from tests.loopback import Answer


@pytest.fixture
def assembled(server, draw_jpg, write_list, run_assemble, tmp_path):
    rows = [
        {"id": f"p{number}", "image_url": server.url + f"/{number}.jpg", "label": "noir" if number % 2 else "hazy"}
        | {"split": "train" if number % 4 else "test"}
        for number in range(20)
    ]
    for number in range(20):
        server.add(f"/{number}.jpg", *([Answer(draw_jpg(number))] if number % 7 else []))
    run_assemble(list=write_list(rows), rows_per_shard=4)
    return tmp_path / "out"


def run_finalize(root):
    with file_lock.exclusive_lock(root) as work:
        return finalize(shard_dir.load_shard_dir(root), work)


def test_index_and_outcomes_are_in_row_order(assembled):
    order = pq.read_table(assembled / "blocks" / "rows.parquet").to_pylist()
    outcomes = pq.read_table(assembled / "outcomes.parquet").to_pylist()
    index = pq.read_table(assembled / "index.parquet").to_pylist()
    for split in ("train", "test"):
        rows = [row["row"] for row in order if row["split"] == split]
        assert [row["row"] for row in outcomes if row["split"] == split] == rows
        kept = [row for row in rows if row % 7]
        assert [row["row"] for row in index if row["split"] == split] == kept
    assert {row["status"] for row in outcomes if row["row"] % 7 == 0} == {"not_found"}


def test_the_index_metadata_describes_the_folder(assembled):
    metadata = json.loads(pq.read_schema(assembled / "index.parquet").metadata[METADATA_KEY])
    assert metadata["classes"] == ["hazy", "noir"]
    assert metadata["encode_format"] == "original"
    assert metadata["image_size"] == 0
    assert metadata["seed"] == 831486
    assert len(metadata["list_sha256"]) == 64


def test_finalizing_again_gives_the_same_bytes(assembled):
    before = {name: (assembled / name).read_bytes() for name in ("index.parquet", "outcomes.parquet")}
    (assembled / "index.parquet").unlink()
    run_finalize(assembled)
    assert {name: (assembled / name).read_bytes() for name in before} == before


def test_only_committed_blocks_are_joined(assembled):
    lost = shard_dir.Block("train", 1)
    (assembled / lost.outcomes_part).unlink()
    assert run_finalize(assembled).total() == 16
    assert lost.shard not in pq.read_table(assembled / "index.parquet").column("shard").to_pylist()


def test_duplicates_name_the_first_row_with_their_bytes_and_nothing_is_dropped(
    server, draw_jpg, write_list, run_assemble, tmp_path
):
    bodies = {0: 1, 1: 2, 2: 1, 3: 3, 4: 1, 5: 2}
    rows = [
        {"image_url": server.add(f"/{number}.jpg", Answer(draw_jpg(body))), "label": 0, "split": "train"}
        for number, body in bodies.items()
    ]
    rows.append({"image_url": server.url + "/gone.jpg", "label": 0, "split": "test"})
    run_assemble(list=write_list(rows), rows_per_shard=2)
    outcomes = pq.read_table(tmp_path / "out" / "outcomes.parquet").to_pylist()
    found = {row["row"]: row["duplicate_of"] for row in outcomes}
    assert found == {0: None, 1: None, 2: 0, 3: None, 4: 0, 5: 1, 6: None}
    assert sum(row["status"] == "kept" for row in outcomes) == 6
    assert pq.read_table(tmp_path / "out" / "index.parquet").num_rows == 6


@pytest.mark.parametrize("part", ["index_part", "outcomes_part"])
def test_a_damaged_part_is_an_error_with_its_remedy(assembled, part):
    path = assembled / getattr(shard_dir.Block("train", 0), part)
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(
        ShardsError, match=f"{path.name} can't be read .*; remove it, and the assemble command"
    ) as error:
        run_finalize(assembled)
    assert "\n" not in str(error.value)


class Killed(BaseException):
    """A substitute for a kill: no further file is changed."""


def kill_at(monkeypatch, step: int) -> None:
    """Make the n-th change to DIR the last one."""
    steps = itertools.count()
    for module in (sys.modules["shards.assembly.finalize"], journal):
        for function in (files.publish_file, files.unpublish_file):

            def stop(*paths, function=function) -> None:
                function(*paths)
                if next(steps) == step:
                    raise Killed

            if hasattr(module, function.__name__):
                monkeypatch.setattr(module, function.__name__, stop)


def test_a_kill_at_any_step_of_dropping_duplicates_changes_nothing_in_the_end(
    server, draw_jpg, write_list, run_assemble, tmp_path, monkeypatch
):
    rows = [
        {"image_url": server.add(f"/{number}.jpg", Answer(draw_jpg(number % 7))), "label": 0, "split": "train"}
        for number in range(9)
    ]
    out, unbroken = tmp_path / "out", tmp_path / "unbroken"
    run_assemble(list=write_list(rows), rows_per_shard=4)
    with file_lock.exclusive_lock(out) as work:
        write_rules(out, DuplicateRules(drop_duplicates=True), work)
    shutil.copytree(out, unbroken)
    run_finalize(unbroken)
    expected = {path.relative_to(unbroken): path.read_bytes() for path in unbroken.glob("**/*") if path.is_file()}
    pictures = {row["duplicate_of"] for row in pq.read_table(unbroken / "outcomes.parquet").to_pylist()}
    assert len(pictures - {None}) == 2
    step = 0
    while True:
        broken = tmp_path / f"broken {step}"
        shutil.copytree(out, broken)
        with monkeypatch.context() as patched:
            kill_at(patched, step)
            try:
                run_finalize(broken)
            except Killed:
                pass
            else:
                break
        run_finalize(broken)
        assert {
            path.relative_to(broken): path.read_bytes() for path in broken.glob("**/*") if path.is_file()
        } == expected
        step += 1
    assert step > 12  # the steps of replacing one block
