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
    """An assembled DIR of 20 rows in 5 blocks: two pictures are gone, and two are equal."""
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
def copy(made, tmp_path):
    """A copy of it that a test may damage."""
    shutil.copytree(made, tmp_path / "out")
    return tmp_path / "out"


def differences(root) -> list[str]:
    return [str(difference) for difference in verify(Snapshot(root), Console(file=io.StringIO())).differences]


def rewrite(path, change) -> None:
    """Rewrite a Parquet file with changed rows."""
    table = pq.read_table(path)
    rows = table.to_pylist()
    changed = change(rows)
    pq.write_table(pa.Table.from_pylist(rows if changed is None else changed, table.schema), path)


def entries(root, shard: str) -> list[dict]:
    return [row for row in pq.read_table(root / "index.parquet").to_pylist() if row["shard"] == shard]


def flip(path, position: int) -> None:
    body = bytearray(path.read_bytes())
    body[position] ^= 4
    path.write_bytes(body)


@pytest.mark.parametrize("made", ["original", "pixels", "jpg"], indirect=True)
def test_a_complete_folder_passes_and_is_not_changed(copy, capsys):
    root = copy
    before = {path: (path.stat().st_mtime_ns, path.is_dir() or path.read_bytes()) for path in root.rglob("*")}
    assert main(["verify", str(root)]) == 0
    assert (
        capsys.readouterr().out
        == f"{root}: no differences: 18 pictures of 20 rows in 5 blocks, each read, hashed and decoded\n"
    )
    assert {path: (path.stat().st_mtime_ns, path.is_dir() or path.read_bytes()) for path in root.rglob("*")} == before


def test_a_flipped_bit_of_a_picture(copy, capsys):
    entry = entries(copy, "train/00001.tar")[1]
    flip(copy / entry["shard"], entry["offset"] + entry["length"] // 2)
    [line] = differences(copy)
    assert line.startswith(f"train/00001.tar, {entry['key']}: sha256: expected {entry['sha256']}, found ")
    assert main(["verify", str(copy)]) == 1
    assert capsys.readouterr().out.splitlines()[1].startswith(f"{copy}: 1 difference; 18 pictures")


def test_any_flipped_bit_of_a_tar_is_found(copy):
    """In data, padding, labels, JSON, the archive's end and the headers, which have checksums."""
    path = copy / "train" / "00000.tar"
    body = path.read_bytes()
    random.seed(7)
    positions = [*random.sample(range(len(body)), 25), 0, 130, 512, 516, len(body) - 1]
    with tarfile.open(path) as tar:
        positions += [member.offset + 100 for member in tar] + [member.offset_data + member.size - 1 for member in tar]
    for position in positions:
        flip(path, position)
        assert differences(copy), position
        path.write_bytes(body)
    assert differences(copy) == []


@pytest.mark.parametrize("share", [0.0, 0.3, 0.7, 0.95, 1.0])
def test_a_truncated_tar(copy, share):
    path = copy / "train" / "00001.tar"
    with tarfile.open(path) as tar:
        end = max(member.offset_data + member.size for member in tar)
    os.truncate(path, int(end * share))
    lines = differences(copy)
    assert lines
    assert all(line.startswith("train/00001.tar") for line in lines)


def test_two_swapped_offsets_in_the_index(copy):
    def swap(rows):
        rows[1]["offset"], rows[2]["offset"] = rows[2]["offset"], rows[1]["offset"]

    rewrite(copy / "index.parquet", swap)
    lines = differences(copy)
    assert len(lines) == 2
    assert all(re.match(r"index.parquet, p\d+: offset: expected \d+, found \d+$", line) for line in lines)


def test_two_swapped_offsets_in_a_part(copy):
    entry = entries(copy, "test/00000.tar")[0]

    def swap(rows):
        rows[0]["offset"], rows[1]["offset"] = rows[1]["offset"], rows[0]["offset"]

    rewrite(copy / "blocks" / "test-00000.index.parquet", swap)
    lines = differences(copy)
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
def test_an_edited_outcome(copy, column, value, expected):
    def edit(rows):
        rows[row][column] = value

    part = copy / "blocks" / "train-00000.outcomes.parquet"
    row = next(number for number, row in enumerate(pq.read_table(part).to_pylist()) if row["status"] == "kept")
    key = pq.read_table(part).to_pylist()[row]["key"]
    rewrite(part, edit)
    rewrite(
        copy / "outcomes.parquet", lambda rows: [row | {column: value} if row["key"] == key else row for row in rows]
    )
    assert any(line.startswith(expected.format(key=key)) for line in differences(copy)), differences(copy)


def test_edited_outcomes(copy):
    rewrite(copy / "outcomes.parquet", lambda rows: rows[:-1])
    [line] = differences(copy)
    assert line.startswith("outcomes.parquet, p")
    assert line.endswith("expected once, found 0 times")


def test_a_wrong_duplicate(copy):
    def remove(rows):
        for row in rows:
            row["duplicate_of"] = None

    rewrite(copy / "outcomes.parquet", remove)
    assert differences(copy) == ["outcomes.parquet, p19: duplicate_of: expected 0, found None"]


@pytest.mark.parametrize(
    "name", ["blocks/train-00002.index.parquet", "blocks/train-00002.outcomes.parquet", "train/00002.tar"]
)
def test_a_missing_file_of_a_block(copy, name):
    (copy / name).unlink()
    assert differences(copy) == [f"train/00002.tar: its block: expected committed, found no {name}"]


@pytest.mark.parametrize("name", ["index.parquet", "outcomes.parquet"])
def test_a_missing_index(copy, name):
    (copy / name).unlink()
    [line] = differences(copy)
    assert line.startswith(f"{name}: file: expected present, found none; make it with: shards finalize")


@pytest.mark.parametrize(
    "name",
    ["index.parquet", "outcomes.parquet", "blocks/test-00000.index.parquet", "blocks/test-00000.outcomes.parquet"],
)
def test_a_damaged_parquet_file(copy, name):
    body = (copy / name).read_bytes()
    (copy / name).write_bytes(body[:-20])
    assert f"{name}: file: expected Parquet, found " in differences(copy)[0]
    (copy / name).write_bytes(b"")
    assert f"{name}: file: expected Parquet, found " in differences(copy)[0]
    pq.write_table(pa.table({"a": [1]}), copy / name)
    assert f"{name}: columns: expected " in differences(copy)[0]


def test_unknown_files_and_what_killed_processes_left(copy):
    for name in ("train/00007.tar", "lost.tar", "other/x.tar", "blocks/.train-00001.index.parquet.123"):
        (copy / name).parent.mkdir(exist_ok=True)
        (copy / name).write_bytes(b"x")
    (copy / ".work" / "h-1").mkdir(parents=True)
    (copy / "blocks" / "train-00001.0a.redo").mkdir()
    (copy / "blocks" / "train-00001.0a.redo" / "shard.tar").write_bytes(b"x")
    (copy / "report.html").write_text("the user's")
    (copy / "mean.npy").write_text("the user's")
    lines = differences(copy)
    assert [line.split(":")[0] for line in lines] == [
        ".work",
        "blocks/.train-00001.index.parquet.123",
        "blocks/train-00001.0a.redo",
        "lost.tar",
        "other/x.tar",
        "train/00007.tar",
    ]


def test_a_repeated_key(copy):
    rewrite(copy / "index.parquet", lambda rows: [*rows, rows[0]])
    first, second = differences(copy)
    assert "once, found 2 times" in first
    assert "key: expected once, found 2 times" in second


def test_a_tar_with_an_additional_member_and_another_order(copy):
    path = copy / "train" / "00000.tar"
    with tarfile.open(path) as tar:
        samples = [(member, tar.extractfile(member).read()) for member in tar]
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
        for member, body in [*samples[3:], *samples[:3]]:
            tar.addfile(member, io.BytesIO(body))
        extra = tarfile.TarInfo("evil.jpg")
        tar.addfile(extra, io.BytesIO())
    lines = differences(copy)
    assert "train/00000.tar, evil: member: expected none (it isn't in the index), found evil.jpg" in lines
    assert any(": offset in the tar's header" in line for line in lines)


def test_labels_and_json_of_another_picture(copy):
    path = copy / "train" / "00000.tar"
    with tarfile.open(path) as tar:
        members = {member.name: member for member in tar}
    key = entries(copy, "train/00000.tar")[0]["key"]
    body = bytearray(path.read_bytes())
    body[members[f"{key}.cls"].offset_data] = ord("7")
    metadata = members[f"{key}.json"]
    text = body[metadata.offset_data : metadata.offset_data + metadata.size]
    body[metadata.offset_data : metadata.offset_data + metadata.size] = text.replace(b"http", b"ftps")
    path.write_bytes(body)
    label, other = differences(copy)
    assert label.startswith(f"train/00000.tar, {key}: cls: expected ")
    assert label.endswith("found b'7'")
    assert other.startswith(f"train/00000.tar, {key}: json: expected " + '{"image_url": "http:')


def test_many_differences_are_counted_and_the_first_are_shown(copy, capsys):
    rewrite(copy / "outcomes.parquet", lambda rows: [row | {"label": 7, "bytes": 1} for row in rows])
    assert main(["verify", str(copy)]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 21
    assert "40 differences, of which the first 20 are shown" in lines[-1]


def test_index_metadata_of_another_dir(copy):
    table = pq.read_table(copy / "index.parquet")
    fields = json.loads(table.schema.metadata[b"stylefinetune"]) | {"seed": 1}
    pq.write_table(table.replace_schema_metadata({"stylefinetune": json.dumps(fields)}), copy / "index.parquet")
    [line] = differences(copy)
    assert line.startswith("index.parquet: metadata: expected {")


def test_a_folder_that_was_retried_grown_and_deduplicated_has_no_differences(
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


def test_a_folder_that_is_being_written_is_refused(copy, capsys):
    with file_lock.exclusive_lock(copy):
        assert main(["verify", str(copy)]) == 2
    assert f"{copy} is in use by process {os.getpid()}" in capsys.readouterr().err


def test_a_missing_folder_is_an_error_of_the_user(tmp_path, capsys):
    assert main(["verify", str(tmp_path / "nothing")]) == 2
    assert "not a shard directory" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
