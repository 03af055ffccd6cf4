import csv
import gzip
import json
import string
from pathlib import Path

import numpy as np
import pytest

from shards.errors import ShardsError
from shards.url_list import reorder
from shards.url_list.flickr_style import FLICKR_STYLE_CLASSES
from shards.url_list.select import select_rows
from shards.url_list.source import Source, read_source
from tests.recipes import make_recipe

OFFICIAL = Path(__file__).parents[4] / "shared" / "data" / "flickr_style.csv.gz"
needs_official_list = pytest.mark.skipif(not OFFICIAL.is_file(), reason=f"the official list isn't here: no {OFFICIAL}")


def source(body: bytes | str) -> Source:
    return Source("list.csv", {"": body.encode() if isinstance(body, str) else body})


def rows_of(body: bytes | str, **settings) -> list[dict]:
    """Return the selected rows in the list's order."""
    return sorted(ordered_rows_of(body, **settings), key=lambda row: row["row"])


def ordered_rows_of(body: bytes | str, **settings) -> list[dict]:
    return select_rows(source(body), make_recipe(**settings))[0].read_all().to_pylist()


@pytest.fixture(scope="module")
def official():
    return read_source([str(OFFICIAL)])


def caffes_selection(rows: list[dict], seed: int, labels: int, images: int) -> list[dict]:
    """Select as assemble_data.py does, with lists instead of data frames."""
    np.random.seed(seed)  # noqa: NPY002 -- as in the script
    rows = [rows[i] for i in np.random.permutation(len(rows))]  # noqa: NPY002
    if labels > 0:
        rows = [row for row in rows if row["label"] < labels]
    if 0 < images < len(rows):
        rows = rows[:images]
    return rows


@pytest.mark.parametrize(
    ("seed", "labels", "images"), [(831486, None, 7), (831486, None, -1), (831486, 3, 7), (0, 4, 10_000), (5, 1, -1)]
)
def test_the_selection_is_caffes(seed, labels, images):
    rows = [{"url": f"http://h/{i}", "label": i * 7 % 5} for i in range(200)]
    body = "image_url,label\n" + "".join(f"{row['url']},{row['label']}\n" for row in rows)
    expected = [row["url"] for row in caffes_selection(rows, seed, labels or -1, images)]
    assert [row["image_url"] for row in ordered_rows_of(body, seed=seed, labels=labels, images=images)] == expected


@needs_official_list
def test_the_selection_from_the_official_list_is_caffes(official):
    with gzip.open(OFFICIAL, "rt", newline="") as file:
        listed = [row | {"label": int(row["label"])} for row in csv.DictReader(file)]
    assert len(listed) == 80_000
    table, recipe = select_rows(official, make_recipe(images=2000, seed=831486))
    rows = table.read_all().to_pylist()
    expected = caffes_selection(listed, 831486, -1, 2000)
    assert [row["image_url"] for row in rows] == [row["image_url"] for row in expected]
    assert [row["split"] for row in rows] == [row["_split"] for row in expected]
    assert [row["label"] for row in rows] == [row["label"] for row in expected]
    assert [row["key"] for row in rows[:3]] == ["12123529133", "11603781264", "12852147194"]
    assert {row["label"] for row in listed} == set(range(20))
    assert recipe.classes == FLICKR_STYLE_CLASSES


def test_keys_are_unique_and_valid_in_a_tar():
    ids = ["../x", "a.b", "same", "same", "", "é", "k" * 100, "same-3", "a_b-1", "007"]
    body = "id,image_url,label\n" + "".join(f"{value},http://h/{i},0\n" for i, value in enumerate(ids))
    keys = [row["key"] for row in rows_of(body)]
    assert keys[0].endswith("-0")
    assert keys[2] == "same"
    assert keys[4] == "00000004"
    assert keys[7:] == ["same-3", "a_b-1", "007"]
    assert len(set(keys)) == len(keys)
    allowed = {*string.ascii_letters, *string.digits, "_", "-"}
    assert all(0 < len(key) <= 80 and set(key) <= allowed for key in keys), keys


@pytest.mark.parametrize("name", ["p{}", "{}", "p {}", "", "p{0}." * 30])
def test_ids_that_need_no_changes_give_the_same_keys_as_those_that_are_checked_one_by_one(name, monkeypatch):
    body = "id,image_url,label\n" + "".join(f"{name.format(row)},http://h/{row},0\n" for row in range(300))
    rows = ordered_rows_of(body)
    monkeypatch.setattr("shards.url_list.select._Ids.need_changes", True)
    assert ordered_rows_of(body) == rows


def test_a_list_that_changes_while_it_is_read_is_refused(tmp_path):
    path = tmp_path / "list.csv"
    path.write_text("image_url,label\nhttp://h/1,0\n")
    source = read_source([str(path)])
    assert len(source.sha256) == 64
    path.write_text("image_url,label\nhttp://h/1,0\nhttp://h/2,0\n")
    with pytest.raises(ShardsError, match="has changed while it was read; run the same command again"):
        select_rows(source, make_recipe())


def test_labels_below_a_limit_are_selected_with_their_classes():
    body = "image_url,label\nhttp://h/1,3\nhttp://h/2,0\n"
    assert select_rows(source(body), make_recipe())[1].classes == ("0", "1", "2", "3")
    rows, recipe = select_rows(source(body), make_recipe(labels=2))
    assert (rows.read_all().column("label").to_pylist(), recipe.classes) == ([0], ("0", "1"))


def test_a_class_name_is_one_line():
    body = 'image_url,label\nhttp://h/1,"Long\nExposure"\nhttp://h/2,Noir\nhttp://h/3,"Long\r\nExposure"\n'
    rows, recipe = select_rows(source(body), make_recipe())
    assert recipe.classes == ("Long Exposure", "Noir")
    assert sorted(rows.read_all().column("label").to_pylist()) == [0, 0, 1]


def test_rows_are_reordered_in_parts(monkeypatch):
    body = "image_url,label,text\n" + "".join(f"http://h/{i},0,{i:010d}\n" for i in range(1000))
    at_once = ordered_rows_of(body)
    monkeypatch.setattr(reorder, "_BUCKET_BYTES", 20_000)
    assert ordered_rows_of(body) == at_once


def test_a_list_without_splits_is_split_by_url_alone():
    body = "image_url,label\n" + "".join(f"http://h/{i % 500},0\n" for i in range(1000))
    rows = rows_of(body, seed=1)
    test = [row for row in rows if row["split"] == "test"]
    assert {row["split"] for row in rows} == {"train", "test"}
    assert 140 < len(test) < 260  # a fifth, at random
    assert [row["split"] for row in rows[:500]] == [row["split"] for row in rows[500:]]
    shorter = rows_of("\n".join(body.splitlines()[:301]), seed=1)
    assert [row["split"] for row in shorter] == [row["split"] for row in rows[:300]]
    assert [row["split"] for row in rows_of(body, seed=2)] != [row["split"] for row in rows]
    assert {row["split"] for row in rows_of(body, test_share=0.0)} == {"train"}


def photos_of(owners: list[str]) -> str:
    pages = [f"https://www.flickr.com/photos/{owner}/{number}" if owner else "" for number, owner in enumerate(owners)]
    lines = [f"http://h/{number}.jpg,{page},0,train" for number, page in enumerate(pages)]
    return "image_url,page_url,label,split\n" + "\n".join(lines)


def test_a_split_by_owner_keeps_an_owners_pictures_together_when_the_list_grows():
    owners = [f"owner{number % 50}" for number in range(300)]
    before = {row["image_url"]: row["split"] for row in rows_of(photos_of(owners), split="by_owner")}
    splits = {owner: {before[f"http://h/{n}.jpg"] for n in range(300) if owners[n] == owner} for owner in owners}
    assert all(len(found) == 1 for found in splits.values())
    assert set.union(*splits.values()) == {"train", "test"}
    grown = {row["image_url"]: row["split"] for row in rows_of(photos_of(owners + owners), split="by_owner")}
    assert before.items() <= grown.items()
    other = {row["image_url"]: row["split"] for row in rows_of(photos_of(owners), split="by_owner", seed=1)}
    assert other != before


def test_a_row_without_an_owner_is_split_by_its_url():
    by_url = rows_of("image_url,label\n" + "".join(f"http://h/{number}.jpg,0\n" for number in range(100)))
    assert [row["split"] for row in rows_of(photos_of([""] * 100), split="by_owner")] == [
        row["split"] for row in by_url
    ]


@needs_official_list
def test_by_owner_no_photographer_of_the_official_list_is_in_both_splits(official):
    rows = select_rows(official, make_recipe(split="by_owner"))[0].read_all().to_pylist()
    splits = {"train": set(), "test": set()}
    for row in rows:
        splits[row["split"]].add(json.loads(row["extra"])["page_url"].split("/")[4])
    assert len(splits["train"] | splits["test"]) == 17_428
    assert not splits["train"] & splits["test"]
    assert 0.18 < sum(row["split"] == "test" for row in rows) / len(rows) < 0.22


def test_all_rows_of_caffe_lists_are_taken_in_their_order():
    caffe = Source(
        "train=a test=b", {"train": b"my dir/b c.jpg 1\n\na.jpg 0\n", "test": b"z.jpg 1"}, {"train": "a", "test": "b"}
    )
    rows = select_rows(caffe, make_recipe())[0].read_all().to_pylist()
    assert [(row["image_url"], row["label"], row["split"]) for row in rows] == [
        ("my dir/b c.jpg", 1, "train"),
        ("a.jpg", 0, "train"),
        ("z.jpg", 1, "test"),
    ]
    assert [row["row"] for row in rows] == [0, 1, 2]


@pytest.mark.parametrize(
    ("body", "named"),
    [
        ("url,label\nhttp://h/1,0\n", "image_url"),
        ("image_url,style\nhttp://h/1,0\n", "label"),
        ("image_url,label\nhttp://h/1,\n", "line 2"),
        ("image_url,label,_split\nhttp://h/1,0,../up\n", "../up"),
        ("image_url,label,split\nhttp://h/1,0,\n", "line 2"),
        ("image_url,label\n", "has no rows"),
        ("", "has no rows"),
        (
            b'{"image_url": "http://h/1", "label": 0, "split": null}\n{"image_url": "h", "label": 0, "split": "x"}',
            "line 1",
        ),
    ],
)
def test_a_list_with_missing_or_invalid_values_is_refused_in_one_line(body, named):
    with pytest.raises(ShardsError) as caught:
        rows_of(body)
    assert named in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_label_that_is_no_class_is_refused_with_its_line_or_its_picture(tmp_path, draw_jpg):
    body = 'id,image_url,label\n"a\nb",http://h/1,cat\n\n2,http://h/2,bird\n'
    with pytest.raises(ShardsError, match=r"^--list list\.csv: line 5 has the label 'bird', which isn't among the 1"):
        rows_of(body, classes=("cat",))
    caffe = Source("train=a test=b", {"train": b"a 0\n", "test": b"\nb 7\n"}, {"train": "a", "test": "b"})
    with pytest.raises(ShardsError, match=r"^--list train=a test=b: line 2 of b has the label '7', which"):
        select_rows(caffe, make_recipe(classes=("cat", "dog")))
    for name in ("cat", "dog"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "1.jpg").write_bytes(draw_jpg(1))
    folder = read_source([str(tmp_path)])
    with pytest.raises(ShardsError, match=r"dog/1\.jpg has the label 'dog', which isn't among the 1 classes"):
        select_rows(folder, make_recipe(classes=("cat",), local=True))


def test_selecting_from_a_caffe_list_is_refused():
    with pytest.raises(ShardsError, match="--images"):
        select_rows(Source("train=a", {"train": b"ok.jpg 0\n"}), make_recipe(images=1))
    with pytest.raises(ShardsError, match="--url_col and --label_col are for a list of URLs"):
        select_rows(Source("train=a", {"train": b"ok.jpg 0\n"}), make_recipe(label_col="style"))
    with pytest.raises(ShardsError, match="--split by_owner"):
        select_rows(Source("train=a", {"train": b"ok.jpg 0\n"}), make_recipe(split="by_owner"))
