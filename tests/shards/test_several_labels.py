"""Lists of which a row has several labels: from the list to the tars, the index, and every command that reads them."""

import csv
import json
import tarfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from shards.__main__ import main
from shards.errors import ShardsError
from shards.format.index import INDEX_SCHEMA, LABELS, ShardIndex
from shards.report.report import read_report
from shards.report.thumbnails import choose_thumbnails
from tests.assembly import tars_and_index

NAMES = [["dog", "cat"], ["bird"], ["cat", "bird", "dog"], ["dog", "dog", "bird"], ["cat"]]  # of five pictures
NUMBERS = [[1, 2], [0], [0, 1, 2], [0, 2], [1]]


@pytest.fixture
def photos(tmp_path, draw_jpg) -> list[dict]:
    """The rows of a list of local pictures with several labels."""
    rows = []
    for number, names in enumerate(NAMES):
        (tmp_path / f"{number}.jpg").write_bytes(draw_jpg(number))
        rows.append({"image_url": f"{number}.jpg", "label": names, "_split": "test" if number == 4 else "train"})
    return rows


def write_json_lines(path: Path, rows: list[dict]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def write_csv(path: Path, rows: list[dict], separator: str = ";") -> str:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(row | {"label": separator.join(row["label"])} for row in rows)
    return str(path)


def labels_by_row(root: Path) -> dict[int, tuple[list[int], int]]:
    return {row["row"]: (row["labels"], row["label"]) for row in pq.read_table(root / "index.parquet").to_pylist()}


EXPECTED = {row: (labels, labels[0]) for row, labels in enumerate(NUMBERS)}


def test_each_kind_of_list_gives_the_same_labels(tmp_path, photos, run_assemble):
    lists = {
        "json": {"list": write_json_lines(tmp_path / "list.jsonl", photos)},
        "csv": {"list": write_csv(tmp_path / "list.csv", photos), "label_separator": ";"},
        "words": {"list": write_csv(tmp_path / "words.csv", photos, " / "), "label_separator": "/"},
        "parquet": {"list": str(tmp_path / "list.parquet")},
    }
    pq.write_table(pa.Table.from_pylist(photos), tmp_path / "list.parquet")
    tars = []
    for name, settings in lists.items():
        root = tmp_path / name
        run_assemble(out=root, local=True, **settings)
        assert labels_by_row(root) == EXPECTED
        assert ShardIndex.load(root).metadata.classes == ("bird", "cat", "dog")
        tars.append((root / "train" / "00000.tar").read_bytes())
    assert tars == tars[:1] * 4


def test_a_sample_has_its_first_label_as_cls_and_all_in_its_json(tmp_path, photos, run_assemble):
    run_assemble(list=write_json_lines(tmp_path / "list.jsonl", photos), local=True)
    with tarfile.open(tmp_path / "out" / "test" / "00000.tar") as tar:
        members = {member.name: tar.extractfile(member).read() for member in tar}
    assert members["00000004.cls"] == b"1"
    assert json.loads(members["00000004.json"]) == {"image_url": "4.jpg", "labels": [1]}


def test_the_index_in_memory_has_the_labels_of_each_split(tmp_path, photos, run_assemble):
    run_assemble(list=write_json_lines(tmp_path / "list.jsonl", photos), local=True)
    entries = ShardIndex.load(tmp_path / "out").entries("train")
    found = {int(key): entries.labels[row].tolist() for row, key in enumerate(entries.key)}
    assert found == dict(enumerate(NUMBERS[:4]))
    assert entries.label.tolist() == entries.labels.first.tolist()
    assert entries.labels.values.dtype == entries.labels.ends.dtype == np.int8


def test_a_list_with_one_label_a_row_has_no_column_of_them(tmp_path, photos, run_assemble):
    rows = [row | {"label": row["label"][0]} for row in photos]
    run_assemble(
        list=write_csv(tmp_path / "list.csv", [row | {"label": [row["label"], "x"]} for row in rows]), local=True
    )
    root = tmp_path / "out"
    index = ShardIndex.load(root)
    assert index.metadata.classes == ("bird;x", "cat;x", "dog;x")  # no separator was given
    assert index.entries("train").labels is None
    assert pq.read_schema(root / "index.parquet").equals(INDEX_SCHEMA)
    recipe = json.loads(pq.read_schema(root / "blocks" / "rows.parquet").metadata[b"recipe"])
    assert not {"label_separator", "several_labels"} & {*recipe}


def test_other_commands_handle_several_labels(tmp_path, photos, run_assemble, capsys):
    path, root = write_json_lines(tmp_path / "list.jsonl", photos), tmp_path / "out"
    run_assemble(list=path, local=True, rows_per_shard=2)
    assert main(["verify", str(root)]) == 0
    before = tars_and_index(root)
    assert main(["finalize", str(root)]) == 0
    assert tars_and_index(root) == before
    assert main(["repack", str(root), "--encode_format", "pixels", "--image_size", "32", "--workers", "1"]) == 0
    assert labels_by_row(tmp_path / "out-pixels") == EXPECTED
    assert main(["verify", str(tmp_path / "out-pixels")]) == 0
    assert main(["report", str(root)]) == 0
    assert "bird" in capsys.readouterr().out
    for number in range(2):
        run_assemble(list=path, local=True, rows_per_shard=2, out=tmp_path / "parts", partition=f"{number}/2")
    assert main(["merge", str(tmp_path / "parts")]) == 0
    assert tars_and_index(tmp_path / "parts") == before


def test_the_report_counts_a_picture_for_each_of_its_labels(tmp_path, photos, run_assemble):
    run_assemble(list=write_json_lines(tmp_path / "list.jsonl", photos), local=True)
    report = read_report(tmp_path / "out", near_duplicates=False)
    assert {each.name: each.kept for each in report.by_label} == {"bird": 3, "cat": 3, "dog": 3}
    chosen = choose_thumbnails(report.index, 5)
    assert {label: sorted(rows) for label, rows in chosen.items()} == {0: [1, 2, 3], 1: [0, 2, 4], 2: [0, 2, 3]}


def test_verify_reports_a_wrong_label(tmp_path, photos, run_assemble, capsys):
    run_assemble(list=write_json_lines(tmp_path / "list.jsonl", photos), local=True)
    part = tmp_path / "out" / "blocks" / "test-00000.index.parquet"
    table = pq.read_table(part)
    place = table.column_names.index(LABELS.name)
    pq.write_table(table.set_column(place, LABELS, pa.array([[1, 2]], LABELS.type)), part)
    assert main(["verify", str(tmp_path / "out")]) == 1
    assert "00000004: labels: expected [1], found [1, 2]" in capsys.readouterr().out


def test_a_list_may_grow_by_rows_with_several_labels_only_if_it_has_some(tmp_path, photos, run_assemble):
    root = tmp_path / "out"
    run_assemble(list=write_json_lines(tmp_path / "list.jsonl", photos[:3]), local=True, classes=None)
    run_assemble(list=write_json_lines(tmp_path / "list.jsonl", photos), local=True)
    assert labels_by_row(root) == EXPECTED
    changed = write_json_lines(tmp_path / "list.jsonl", [photos[0] | {"label": ["cat"]}, *photos[1:]])
    with pytest.raises(ShardsError, match="line 1 differs from the list that"):
        run_assemble(list=changed, local=True)
    single = [row | {"label": row["label"][0]} for row in photos]
    run_assemble(list=write_json_lines(tmp_path / "single.jsonl", single), local=True, out=tmp_path / "single")
    grown = write_json_lines(tmp_path / "single.jsonl", [*single, photos[2]])
    with pytest.raises(ShardsError, match=r"has rows with several labels now, but each picture of .*single has one"):
        run_assemble(list=grown, local=True, out=tmp_path / "single")


@pytest.mark.parametrize(
    ("label", "settings", "message"),
    [
        ([], {}, "line 2 has no label in the column label"),
        (None, {}, "line 2 has no label in the column label"),
        (["cat", None], {}, "line 2 has an empty label in the column label"),
        (["cat", ["dog"]], {}, 'line 2 has ["cat", ["dog"]] in the column label, where text or a number is expected'),
        (["cat", "7"], {}, "line 1 has the label 'dog'; numbers go from 0"),
        ([0.5], {}, "line 1 has the label 'dog'; numbers go from 0 to 99,999"),
        (["cat"], {"labels": 2}, "--labels selects rows by their only label, and rows of this list have several"),
        (" ; ", {"label_separator": ";"}, "line 2 has no label in the column label"),
    ],
)
def test_a_bad_value_is_refused_with_its_row(tmp_path, photos, run_assemble, label, settings, message):
    path = write_json_lines(tmp_path / "list.jsonl", [photos[0], photos[1] | {"label": label}])
    with pytest.raises(ShardsError) as error:
        run_assemble(list=path, local=True, **settings)
    assert message in str(error.value)


def test_a_column_that_would_be_overwritten_is_refused(tmp_path, photos, run_assemble):
    rows = [{**row, "labels": 3, "tags": row["label"]} for row in photos]
    path = write_json_lines(tmp_path / "list.jsonl", rows)
    with pytest.raises(
        ShardsError, match="line 1 has a column labels beside tags, whose lists are stored by that name"
    ):
        run_assemble(list=path, local=True, label_col="tags")


def test_a_separator_is_for_lists_with_a_column_of_labels(tmp_path, draw_jpg, run_assemble):
    (tmp_path / "folder" / "cat;dog").mkdir(parents=True)
    (tmp_path / "folder" / "cat;dog" / "0.jpg").write_bytes(draw_jpg(0))
    (tmp_path / "train.txt").write_text("0.jpg 0\n")
    with pytest.raises(ShardsError, match=r"--label_separator is for a list with a column of labels; .* is a folder"):
        run_assemble(list=str(tmp_path / "folder"), label_separator=";")
    with pytest.raises(ShardsError, match="a line of a Caffe list file has one label"):
        run_assemble(list=f"train={tmp_path / 'train.txt'}", label_separator=";")


def test_tars_whose_json_has_lists_are_indexed(tmp_path, draw_jpg):
    from webdataset import TarWriter

    with TarWriter(str(tmp_path / "a.tar"), encoder=False) as writer:
        for number, names in enumerate(NAMES):
            tags = names if number != 4 else names[0]  # a single name is a list of one
            body = json.dumps({"tags": tags}).encode()
            writer.write({"__key__": f"k{number}", "jpg": draw_jpg(number), "json": body})
    flags = ["--label_key", "tags", "--split", "train", "--workers", "1", "--out"]
    root = tmp_path / "out"
    assert main(["index", str(tmp_path / "a.tar"), *flags, str(root)]) == 0
    assert labels_by_row(root) == EXPECTED
    assert main(["verify", str(root)]) == 0
    assert main(["repack", str(root), "--encode_format", "jpg", "--image_size", "32", "--workers", "1"]) == 0
    assert main(["verify", str(tmp_path / "out-jpg")]) == 0
    assert labels_by_row(tmp_path / "out-jpg") == EXPECTED
