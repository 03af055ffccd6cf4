import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from shards.__main__ import main
from shards.errors import ShardsError
from shards.format.index import ShardIndex
from shards.local.hf_dataset import DatasetRules, list_dataset
from tests.assembly import outcomes_by_row
from tests.shards.local.datasets import CLASSES, write_dataset


def rows_of(path, **rules):
    found = list_dataset(path, DatasetRules(**rules))
    return [json.loads(line) for line in found.listing.splitlines()], found


def test_names_of_classes_splits_and_other_columns_are_read(tmp_path):
    write_dataset(tmp_path / "data/train-00000-of-00002.parquet", [b"1", b"2"], [0, 1], caption=["a", "é"])
    write_dataset(tmp_path / "data/train-00001-of-00002.parquet", [b"3"], [1], caption=["c"])
    write_dataset(tmp_path / "data/validation-00000-of-00001.parquet", [b"4"], [0], caption=["d"])
    rows, found = rows_of(tmp_path)
    assert found.classes == tuple(CLASSES)
    assert found.picture_column == "image"
    assert rows == [
        {"caption": "a", "image_url": "data/train-00000-of-00002.parquet#0", "split": "train", "label": "zebra"},
        {"caption": "é", "image_url": "data/train-00000-of-00002.parquet#1", "split": "train", "label": "ant"},
        {"caption": "c", "image_url": "data/train-00001-of-00002.parquet#0", "split": "train", "label": "ant"},
        {"caption": "d", "image_url": "data/validation-00000-of-00001.parquet#0", "split": "test", "label": "zebra"},
    ]
    rows, _ = rows_of(tmp_path, split="validation")
    assert rows == [{"caption": "d", "image_url": "data/validation-00000-of-00001.parquet#0", "label": "zebra"}]


def test_the_same_command_continues_with_out_in_the_folder_of_the_dataset(tmp_path, draw_jpg, run_assemble):
    write_dataset(tmp_path / "data/train-00000-of-00001.parquet", [draw_jpg(0), draw_jpg(1)], [0, 1])
    run_assemble(list=f"hf:{tmp_path / 'data'}", out=tmp_path / "data" / "shards")
    again = run_assemble(list=f"hf:{tmp_path / 'data'}", out=tmp_path / "data" / "shards")
    assert "2 of 2 were done before" in again


def test_plain_columns_of_bytes_and_of_texts(tmp_path):
    table = pa.table({"img": [b"1", b"2"], "mask": [b"", b""], "kind": ["x", "y"], "box": [[1], [2]]})
    pq.write_table(table, tmp_path / "a.parquet")
    rows, found = rows_of(tmp_path / "a.parquet", label_column="kind")
    assert (found.picture_column, found.base, found.classes) == ("img", tmp_path, ())
    assert rows == [{"image_url": "a.parquet#0", "label": "x"}, {"image_url": "a.parquet#1", "label": "y"}]
    assert rows_of(tmp_path, picture_column="mask", has_labels=False)[1].picture_column == "mask"


@pytest.mark.parametrize(
    ("columns", "rules", "message"),
    [
        ({"a": [b"1"], "b": [b"2"], "label": [0]}, {}, "the columns a, b have pictures among a, b, label; choose"),
        ({"a": [1], "label": [0]}, {}, "no column of pictures among a, label"),
        ({"image": [b"1"], "label": [0]}, {"picture_column": "x"}, "no column of pictures among image, label"),
        ({"image": [b"1"], "x": [0]}, {}, "no column of labels among image, x; choose one with --label_col NAME"),
        ({"image": [b"1"], "label": [[[0]]]}, {}, "the column label has list"),
    ],
)
def test_unclear_columns_are_refused_in_one_line(columns, rules, message, tmp_path):
    pq.write_table(pa.table(columns), tmp_path / "a.parquet")
    with pytest.raises(ShardsError) as caught:
        list_dataset(tmp_path, DatasetRules(**rules))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_other_mistakes_are_refused_in_one_line(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "a.parquet").write_bytes(b"no Parquet")
    write_dataset(tmp_path / "x" / "test.parquet", [b"1"], [-1])
    for path, rules, message in [
        ("empty", {}, "no Parquet file in it"),
        ("bad", {}, "a.parquet can't be read"),
        ("x", {}, "test.parquet, row 0 (counted from 0) has the label -1, which is none of the 2 classes"),
        ("x", {"split": "train"}, "no file of that split among test.parquet"),
    ]:
        with pytest.raises(ShardsError) as caught:
            list_dataset(tmp_path / path, DatasetRules(**rules))
        assert message in str(caught.value)


def test_assemble_packs_a_dataset_in_its_order(tmp_path, draw_jpg, capsys):
    bodies = [draw_jpg(number) for number in range(8)]
    bodies[3], bodies[4] = bodies[3][:500], {"bytes": None, "path": "x.jpg"}
    write_dataset(tmp_path / "ds" / "train.parquet", bodies, [number % 2 for number in range(8)])
    write_dataset(tmp_path / "ds" / "test.parquet", [draw_jpg(20), b"a text"], [1, 1])
    out = ["--out", str(tmp_path / "out"), "--workers", "1", "--rows_per_shard", "3"]
    assert main(["assemble", "--list", f"hf:{tmp_path}/ds", *out]) == 0
    assert main(["verify", str(tmp_path / "out")]) == 0
    index = ShardIndex.load(tmp_path / "out")
    assert index.metadata.classes == tuple(CLASSES)
    outcomes = {row["image_url"]: row["status"] for row in outcomes_by_row(tmp_path / "out").values()}
    assert outcomes["train.parquet#3"] == "corrupt"
    assert outcomes["train.parquet#4"] == "missing_file"
    assert outcomes["test.parquet#1"] == "not_an_image"
    assert list(outcomes.values()).count("kept") == 7
    entries = index.entries("train")
    stored = []
    for row in range(len(entries)):
        with (tmp_path / "out" / entries.shard[row]).open("rb") as file:
            file.seek(int(entries.offset[row]))
            stored.append(file.read(int(entries.length[row])))
    assert stored == [body for number, body in enumerate(bodies) if number not in {3, 4}]
    capsys.readouterr()
    assert main(["assemble", "--list", f"hf:{tmp_path}/ds:train", *out]) == 2
    assert "was made from other pictures than" in capsys.readouterr().err


def test_one_split_alone_is_divided(tmp_path, draw_jpg):
    write_dataset(tmp_path / "ds" / "train.parquet", [draw_jpg(number) for number in range(30)], [0, 1] * 15)
    out = tmp_path / "out"
    assert main(["assemble", "--list", f"hf:{tmp_path}/ds", "--out", str(out), "--images", "20"]) == 0
    assert ShardIndex.load(out).splits == ["test", "train"]
    assert pq.read_metadata(out / "index.parquet").num_rows == 20
    assert not Path("hf:").exists()


def test_a_column_of_lists_of_class_labels(tmp_path, draw_jpg):
    """As the library `datasets` stores Sequence(ClassLabel), and List(ClassLabel) in its newer releases."""
    for kind in ("Sequence", "List"):
        folder = tmp_path / kind
        folder.mkdir()
        classes = {"feature": {"names": CLASSES, "_type": "ClassLabel"}, "_type": kind}
        features = {"image": {"_type": "Image"}, "tags": classes}
        pictures = [{"bytes": draw_jpg(number), "path": "a.jpg"} for number in range(3)]
        table = pa.table({"image": pictures, "tags": [[0, 1], [1], [0]], "scores": [[1.0], [], []]})
        metadata = {"huggingface": json.dumps({"info": {"features": features}})}
        pq.write_table(table.replace_schema_metadata(metadata), folder / "train-0.parquet")
        out = tmp_path / f"{kind}-out"
        flags = ["--workers", "1", "--test_share", "0"]
        assert main(["assemble", "--list", f"hf:{folder}", "--out", str(out), *flags]) == 0
        index = ShardIndex.load(out)
        assert index.metadata.classes == tuple(CLASSES)
        assert sorted(index.table.column("labels").to_pylist()) == [[0], [0, 1], [1]]
