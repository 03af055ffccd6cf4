import io
import json
import os
import random
import re
import shutil
import tarfile

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from rich.console import Console

from shards.__main__ import main
from shards.assembly.assemble import assemble
from shards.config.schema import AssembleConfig
from shards.storage import file_lock
from shards.storage.snapshot import Snapshot
from shards.verify.verify import verify
from tests.loopback import Answer, LoopbackServer


@pytest.fixture(scope="module", params=["original"])
def made(request, draw_jpg, tmp_path_factory):
    """20 rows in 5 blocks, of which 2 are gone and two of the same bytes, assembled once."""
    folder = tmp_path_factory.mktemp("made")
    lines = ["id,image_url,label,split,title"]
    with LoopbackServer() as server:
        for number in range(20):
            url = server.add(f"/{number}.jpg", Answer(draw_jpg(0 if number == 19 else number)))
            url = url.replace("/5.jpg", "/gone.jpg").replace("/13.jpg", "/gone.jpg")
            lines.append(f"p{number},{url},{number % 3},{'train' if number % 5 else 'test'},päge {number}")
        (folder / "list.csv").write_text("\n".join(lines))
        settings = {"encode_format": request.param, "image_size": 24, "rows_per_shard": 4, "workers": 2}
        config = AssembleConfig(list=str(folder / "list.csv"), out=folder / "out", **settings)
        assemble(config, Console(file=io.StringIO()))
    return folder / "out"


@pytest.fixture
def whole(made, tmp_path):
    """A copy of it to damage."""
    shutil.copytree(made, tmp_path / "out")
    return tmp_path / "out"


def differences(root) -> list[str]:
    return [str(difference) for difference in verify(Snapshot(root), Console(file=io.StringIO())).differences]


def rewrite(path, change) -> None:
    """Puts a Parquet file of changed rows in its own place."""
    table = pq.read_table(path)
    rows = table.to_pylist()
    changed = change(rows)
    pq.write_table(pa.Table.from_pylist(rows if changed is None else changed, table.schema), path)


def entries(root, shard: str) -> list[dict]:
    return [row for row in pq.read_table(root / "index.parquet").to_pylist() if row["shard"] == shard]


def flip(path, place: int) -> None:
    body = bytearray(path.read_bytes())
    body[place] ^= 4
    path.write_bytes(body)


@pytest.mark.parametrize("made", ["original", "pixels", "jpg"], indirect=True)
def test_a_whole_folder_passes_and_stays_as_it_is(whole, capsys):
    root = whole
    before = {path: (path.stat().st_mtime_ns, path.is_dir() or path.read_bytes()) for path in root.rglob("*")}
    assert main(["verify", str(root)]) == 0
    assert (
        capsys.readouterr().out == f"{root}: no differences: 18 pictures of 20 rows in 5 blocks, each read, hashed and decoded\n"
    )
    assert {path: (path.stat().st_mtime_ns, path.is_dir() or path.read_bytes()) for path in root.rglob("*")} == before


def test_a_flipped_bit_of_a_picture(whole, capsys):
    entry = entries(whole, "train/00001.tar")[1]
    flip(whole / entry["shard"], entry["offset"] + entry["length"] // 2)
    [line] = differences(whole)
    assert line.startswith(f"train/00001.tar, {entry['key']}: sha256: expected {entry['sha256']}, found ")
    assert main(["verify", str(whole)]) == 1
    assert capsys.readouterr().out.splitlines()[1].startswith(f"{whole}: 1 difference; 18 pictures")


def test_any_flipped_bit_of_a_tar_is_found(whole):
    """But for a header's fields beyond its checksum, none is free: data, padding, labels, JSON and the end."""
    path = whole / "train" / "00000.tar"
    body = path.read_bytes()
    random.seed(7)
    places = [*random.sample(range(len(body)), 25), 0, 130, 512, 516, len(body) - 1]
    with tarfile.open(path) as tar:
        places += [member.offset + 100 for member in tar] + [member.offset_data + member.size - 1 for member in tar]
    for place in places:
        flip(path, place)
        assert differences(whole), place
        path.write_bytes(body)
    assert differences(whole) == []


@pytest.mark.parametrize("kept", [0.0, 0.3, 0.7, 0.95, 1.0])
def test_a_tar_that_was_cut(whole, kept):
    path = whole / "train" / "00001.tar"
    with tarfile.open(path) as tar:
        end = max(member.offset_data + member.size for member in tar)
    os.truncate(path, int(end * kept))
    lines = differences(whole)
    assert lines
    assert all(line.startswith("train/00001.tar") for line in lines)


def test_two_swapped_offsets_in_the_index(whole):
    def swap(rows):
        rows[1]["offset"], rows[2]["offset"] = rows[2]["offset"], rows[1]["offset"]

    rewrite(whole / "index.parquet", swap)
    lines = differences(whole)
    assert len(lines) == 2
    assert all(re.match(r"index.parquet, p\d+: offset: expected \d+, found \d+$", line) for line in lines)


def test_two_swapped_offsets_in_a_part(whole):
    entry = entries(whole, "test/00000.tar")[0]

    def swap(rows):
        rows[0]["offset"], rows[1]["offset"] = rows[1]["offset"], rows[0]["offset"]

    rewrite(whole / "blocks" / "test-00000.index.parquet", swap)
    lines = differences(whole)
    assert len(lines) == 4  # each in the tar, and where index.parquet has another
    assert lines[0].startswith(
        f"test/00000.tar, {entry['key']}: offset in the tar's header: expected {entry['offset']}, found "
    )


@pytest.mark.parametrize(
    ("column", "value", "expected"),
    [
        ("status", "gone", "blocks/train-00000.index.parquet, {key}: row: expected none, found"),
        ("status", "weird", "outcomes.parquet, {key}: status: expected one of the closed set, found weird"),
        ("key", "other", "blocks/train-00000.outcomes.parquet, other: key: expected {key}, found other"),
        ("label", 9, "blocks/train-00000.outcomes.parquet, {key}: label: expected"),
        ("sha256", "00", "blocks/train-00000.index.parquet, {key}: sha256: expected 00, found"),
    ],
)
def test_an_edited_outcome(whole, column, value, expected):
    def edit(rows):
        rows[row][column] = value

    part = whole / "blocks" / "train-00000.outcomes.parquet"
    row = next(place for place, row in enumerate(pq.read_table(part).to_pylist()) if row["status"] == "kept")
    key = pq.read_table(part).to_pylist()[row]["key"]
    rewrite(part, edit)
    rewrite(
        whole / "outcomes.parquet", lambda rows: [row | {column: value} if row["key"] == key else row for row in rows]
    )
    assert any(line.startswith(expected.format(key=key)) for line in differences(whole)), differences(whole)


def test_an_edited_ledger(whole):
    rewrite(whole / "outcomes.parquet", lambda rows: rows[:-1])
    [line] = differences(whole)
    assert line.startswith("outcomes.parquet, p")
    assert line.endswith("expected once, found 0 times")


def test_a_wrong_duplicate(whole):
    def forget(rows):
        for row in rows:
            row["duplicate_of"] = None

    rewrite(whole / "outcomes.parquet", forget)
    assert differences(whole) == ["outcomes.parquet, p19: duplicate_of: expected 0, found None"]


@pytest.mark.parametrize(
    "name", ["blocks/train-00002.index.parquet", "blocks/train-00002.outcomes.parquet", "train/00002.tar"]
)
def test_a_lost_file_of_a_block(whole, name):
    (whole / name).unlink()
    assert differences(whole) == [f"train/00002.tar: its block: expected committed, found no {name}"]


@pytest.mark.parametrize("name", ["index.parquet", "outcomes.parquet"])
def test_a_lost_index(whole, name):
    (whole / name).unlink()
    [line] = differences(whole)
    assert line.startswith(f"{name}: file: expected present, found none; make it with: python -m shards finalize")


@pytest.mark.parametrize(
    "name",
    ["index.parquet", "outcomes.parquet", "blocks/test-00000.index.parquet", "blocks/test-00000.outcomes.parquet"],
)
def test_a_damaged_parquet_file(whole, name):
    body = (whole / name).read_bytes()
    (whole / name).write_bytes(body[:-20])
    assert f"{name}: file: expected Parquet, found " in differences(whole)[0]
    (whole / name).write_bytes(b"")
    assert f"{name}: file: expected Parquet, found " in differences(whole)[0]
    pq.write_table(pa.table({"a": [1]}), whole / name)
    assert f"{name}: columns: expected " in differences(whole)[0]


def test_strays_and_left_overs(whole):
    for name in ("train/00007.tar", "lost.tar", "other/x.tar", "blocks/.train-00001.index.parquet.123"):
        (whole / name).parent.mkdir(exist_ok=True)
        (whole / name).write_bytes(b"x")
    (whole / ".work" / "h-1").mkdir(parents=True)
    (whole / "blocks" / "train-00001.0a.redo").mkdir()
    (whole / "blocks" / "train-00001.0a.redo" / "shard.tar").write_bytes(b"x")
    (whole / "report.html").write_text("nobody minds")
    (whole / "mean.npy").write_text("nor this")
    lines = differences(whole)
    assert [line.split(":")[0] for line in lines] == [
        ".work",
        "blocks/.train-00001.index.parquet.123",
        "blocks/train-00001.0a.redo",
        "lost.tar",
        "other/x.tar",
        "train/00007.tar",
    ]


def test_a_key_that_stands_twice(whole):
    rewrite(whole / "index.parquet", lambda rows: [*rows, rows[0]])
    first, second = differences(whole)
    assert "once, found 2 times" in first
    assert "key: expected once, found 2 times" in second


def test_a_tar_with_a_member_too_many_and_another_order(whole):
    path = whole / "train" / "00000.tar"
    with tarfile.open(path) as tar:
        samples = [(member, tar.extractfile(member).read()) for member in tar]
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
        for member, body in [*samples[3:], *samples[:3]]:
            tar.addfile(member, io.BytesIO(body))
        extra = tarfile.TarInfo("evil.jpg")
        tar.addfile(extra, io.BytesIO())
    lines = differences(whole)
    assert "train/00000.tar, evil: member: expected none (it isn't in the index), found evil.jpg" in lines
    assert any(": offset in the tar's header" in line for line in lines)


def test_labels_and_json_of_another_picture(whole):
    path = whole / "train" / "00000.tar"
    with tarfile.open(path) as tar:
        members = {member.name: member for member in tar}
    key = entries(whole, "train/00000.tar")[0]["key"]
    body = bytearray(path.read_bytes())
    body[members[f"{key}.cls"].offset_data] = ord("7")
    further = members[f"{key}.json"]
    text = body[further.offset_data : further.offset_data + further.size]
    body[further.offset_data : further.offset_data + further.size] = text.replace(b"http", b"ftps")
    path.write_bytes(body)
    label, other = differences(whole)
    assert label.startswith(f"train/00000.tar, {key}: cls: expected ")
    assert label.endswith("found b'7'")
    assert other.startswith(f"train/00000.tar, {key}: json: expected " + '{"image_url": "http:')


def test_many_differences_are_counted_and_the_first_are_shown(whole, capsys):
    rewrite(whole / "outcomes.parquet", lambda rows: [row | {"label": 7, "bytes": 1} for row in rows])
    assert main(["verify", str(whole)]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 21
    assert "40 differences, of which the first 20 are shown" in lines[-1]


def test_index_metadata_of_something_else(whole):
    table = pq.read_table(whole / "index.parquet")
    fields = json.loads(table.schema.metadata[b"stylefinetune"]) | {"seed": 1}
    pq.write_table(table.replace_schema_metadata({"stylefinetune": json.dumps(fields)}), whole / "index.parquet")
    [line] = differences(whole)
    assert line.startswith("index.parquet: metadata: expected {")


def test_retried_grown_and_judged_over_the_whole_ledger_it_is_whole(
    server, draw_jpg, write_list, run_assemble, tmp_path
):
    def rows(count):
        return [
            {"image_url": f"{server.url}/{number}.jpg", "label": 0, "split": "train", "id": f"p{number}"}
            for number in range(count)
        ]

    for number in range(20):
        body = draw_jpg(100 if number in {2, 9, 16} else 101 if number in {3, 12} else number)
        server.add(f"/{number}.jpg", *([Answer(status=404)] if number % 6 == 5 else []), Answer(body))
    settings = {"rows_per_shard": 4, "placeholder_urls": 3, "drop_duplicates": True}
    for count, retry in ((14, None), (20, None), (20, "failed")):
        run_assemble(list=write_list(rows(count)), retry=retry, **settings)
        assert differences(tmp_path / "out") == []
    statuses = [row["status"] for row in pq.read_table(tmp_path / "out" / "outcomes.parquet").to_pylist()]
    assert {status: statuses.count(status) for status in set(statuses)} == {
        "kept": 16,
        "placeholder": 3,
        "duplicate": 1,
    }


def test_a_folder_that_is_being_written_is_not_judged(whole, capsys):
    with file_lock.exclusive_lock(whole):
        assert main(["verify", str(whole)]) == 2
    assert f"{whole} is in use by process {os.getpid()}" in capsys.readouterr().err


def test_no_folder_is_a_mistake_of_the_users(tmp_path, capsys):
    assert main(["verify", str(tmp_path / "nothing")]) == 2
    assert "no shards here" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
