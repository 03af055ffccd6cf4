import codecs
import csv
import gzip
import io
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from shards.errors import ShardsError
from shards.url_list.flickr_style import FLICKR_STYLE_CLASSES, FLICKR_STYLE_SHA256
from shards.url_list.select import Selection, read_classes, select_rows
from shards.url_list.source import Source, read_source

OFFICIAL = Path(__file__).parents[4] / "shared" / "data" / "flickr_style.csv.gz"


def source(body: bytes | str) -> Source:
    return Source("list.csv", {"": body.encode() if isinstance(body, str) else body})


def rows_of(body: bytes | str, **choice) -> list[dict]:
    return select_rows(source(body), Selection(**choice))[0].to_pylist()


def in_list_order(rows: list[dict]) -> list[dict]:
    return sorted(rows, key=lambda row: row["row"])


COLUMNS = {
    "image_url": ["http://h/a.jpg", "http://h/b.jpg", "http://h/c.jpg"],
    "label": [2, 0, 1],
    "_split": ["train", "test", "train"],
    "id": ["x", "y", "z"],
    "page_url": ["p", "q", "r"],
}


def as_csv() -> bytes:
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(COLUMNS)
    writer.writerows(zip(*COLUMNS.values(), strict=True))
    return text.getvalue().encode()


def as_parquet() -> bytes:
    buffer = io.BytesIO()
    pq.write_table(pa.table(COLUMNS), buffer)
    return buffer.getvalue()


def as_json_lines() -> bytes:
    rows = [dict(zip(COLUMNS, values, strict=True)) for values in zip(*COLUMNS.values(), strict=True)]
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


MARKED = [
    codecs.BOM_UTF8 + body.replace(b"\r\n", b"\n").replace(b"\n", b"\r\n") for body in (as_csv(), as_json_lines())
]


FORMATS = {
    "csv": as_csv(),
    "csv.gz": gzip.compress(as_csv(), mtime=0),
    "parquet": as_parquet(),
    "jsonl": as_json_lines(),
    "csv with a BOM": MARKED[0],
    "jsonl with a BOM": MARKED[1],
}


@pytest.mark.parametrize("body", FORMATS.values(), ids=FORMATS.keys())
def test_each_format_gives_the_same_rows(body):
    rows = in_list_order(rows_of(body))
    assert [row["key"] for row in rows] == ["x", "y", "z"]
    assert [row["image_url"] for row in rows] == COLUMNS["image_url"]
    assert [row["label"] for row in rows] == [2, 0, 1]
    assert [row["split"] for row in rows] == ["train", "test", "train"]
    assert [json.loads(row["extra"]) for row in rows] == [{"page_url": "p"}, {"page_url": "q"}, {"page_url": "r"}]


def caffes_choice(rows: list[dict], seed: int, labels: int, images: int) -> list[dict]:
    """What assemble_data.py does, with lists for data frames."""
    np.random.seed(seed)  # noqa: NPY002 - as the script has it
    rows = [rows[i] for i in np.random.permutation(len(rows))]  # noqa: NPY002
    if labels > 0:
        rows = [row for row in rows if row["label"] < labels]
    if 0 < images < len(rows):
        rows = rows[:images]
    return rows


@pytest.mark.parametrize(
    ("seed", "labels", "images"), [(831486, None, 7), (831486, None, -1), (831486, 3, 7), (0, 4, 10_000), (5, 1, -1)]
)
def test_choice_is_caffes(seed, labels, images):
    rows = [{"url": f"http://h/{i}", "label": i * 7 % 5} for i in range(200)]
    body = "image_url,label\n" + "".join(f"{row['url']},{row['label']}\n" for row in rows)
    expected = [row["url"] for row in caffes_choice(rows, seed, labels or -1, images)]
    assert [row["image_url"] for row in rows_of(body, seed=seed, labels=labels, images=images)] == expected


@pytest.mark.skipif(not OFFICIAL.is_file(), reason=f"the official list isn't here: no {OFFICIAL}")
def test_choice_from_the_official_list_is_caffes():
    official = read_source([str(OFFICIAL)])
    assert official.sha256 == FLICKR_STYLE_SHA256
    with gzip.open(OFFICIAL, "rt", newline="") as file:
        listed = [row | {"label": int(row["label"])} for row in csv.DictReader(file)]
    assert len(listed) == 80_000
    table, names, _ = select_rows(official, Selection(images=2000, seed=831486))
    rows = table.to_pylist()
    expected = caffes_choice(listed, 831486, -1, 2000)
    assert [row["image_url"] for row in rows] == [row["image_url"] for row in expected]
    assert [row["split"] for row in rows] == [row["_split"] for row in expected]
    assert [row["label"] for row in rows] == [row["label"] for row in expected]
    assert [row["key"] for row in rows[:3]] == ["12123529133", "11603781264", "12852147194"]
    assert {row["label"] for row in listed} == set(range(20))
    assert names == FLICKR_STYLE_CLASSES


def test_the_unnamed_first_column_is_the_id():
    rows = in_list_order(rows_of(",image_url,label\n007,http://h/a,0\n8,http://h/b,0\n"))
    assert [row["key"] for row in rows] == ["007", "8"]


def test_keys_fit_a_tar_and_are_unique():
    ids = ["../x", "a.b", "same", "same", "", "é", "k" * 100, "same-3", "a_b-1"]
    body = "id,image_url,label\n" + "".join(f"{value},http://h/{i},0\n" for i, value in enumerate(ids))
    keys = [row["key"] for row in in_list_order(rows_of(body))]
    assert keys[0].endswith("-0")
    assert keys[2] == "same"
    assert keys[4] == "00000004"
    assert keys[7:] == ["same-3", "a_b-1"]
    assert len(set(keys)) == len(keys)
    assert all(0 < len(key) <= 80 and set(key) <= set(_ALLOWED) for key in keys), keys


_ALLOWED = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_-"


def test_names_are_numbered_in_sorted_order():
    table, names, _ = select_rows(
        source("image_url,label\nhttp://h/1,noir\nhttp://h/2,bright\nhttp://h/3,noir\n"), Selection()
    )
    assert names == ("bright", "noir")
    assert [row["label"] for row in in_list_order(table.to_pylist())] == [1, 0, 1]


def test_names_are_numbered_by_a_class_list(tmp_path):
    (tmp_path / "classes.txt").write_text("noir\nbright\nhazy\n")
    classes = read_classes(str(tmp_path / "classes.txt"))
    named = source("image_url,label\nhttp://h/1,noir\nhttp://h/2,bright\n")
    table, names, _ = select_rows(named, Selection(classes=classes))
    assert names == ("noir", "bright", "hazy")
    assert [row["label"] for row in in_list_order(table.to_pylist())] == [0, 1]


def test_integer_labels_are_their_own_names():
    assert select_rows(source("image_url,label\nhttp://h/1,3\nhttp://h/2,0\n"), Selection())[1] == ("0", "1", "2", "3")
    assert select_rows(source("image_url,label\nhttp://h/1,3\nhttp://h/2,0\n"), Selection(labels=2))[1] == ("0", "1")


def test_the_official_names_can_be_asked_for():
    assert read_classes("flickr_style") == FLICKR_STYLE_CLASSES
    assert FLICKR_STYLE_CLASSES[4] == "HDR"
    assert len(set(FLICKR_STYLE_CLASSES)) == 20


def test_a_list_without_splits_is_split_by_url_alone():
    body = "image_url,label\n" + "".join(f"http://h/{i % 500},0\n" for i in range(1000))
    rows = in_list_order(rows_of(body, seed=1))
    test = [row for row in rows if row["split"] == "test"]
    assert {row["split"] for row in rows} == {"train", "test"}
    assert 140 < len(test) < 260  # a fifth, drawn
    assert [row["split"] for row in rows[:500]] == [row["split"] for row in rows[500:]]
    shorter = in_list_order(rows_of("\n".join(body.splitlines()[:301]), seed=1))
    assert [row["split"] for row in shorter] == [row["split"] for row in rows[:300]]
    assert [row["split"] for row in in_list_order(rows_of(body, seed=2))] != [row["split"] for row in rows]
    assert {row["split"] for row in rows_of(body, test_share=0.0)} == {"train"}


PATHS = {"train": "a", "test": "b"}


def photos_of(owners: list[str]) -> str:
    pages = [f"https://www.flickr.com/photos/{owner}/{number}" if owner else "" for number, owner in enumerate(owners)]
    lines = [f"http://h/{number}.jpg,{page},0,train" for number, page in enumerate(pages)]
    return "image_url,page_url,label,split\n" + "\n".join(lines)


def test_a_split_by_owner_keeps_an_owners_pictures_together_however_the_list_grows():
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


@pytest.mark.skipif(not OFFICIAL.is_file(), reason="the real list (../shared/data/flickr_style.csv.gz) isn't here")
def test_of_the_official_list_no_photographer_stands_in_both_splits_by_owner():
    rows = rows_of(OFFICIAL.read_bytes(), split="by_owner")
    splits = {"train": set(), "test": set()}
    for row in rows:
        splits[row["split"]].add(json.loads(row["extra"])["page_url"].split("/")[4])
    assert len(splits["train"] | splits["test"]) == 17_428
    assert not splits["train"] & splits["test"]
    assert 0.18 < sum(row["split"] == "test" for row in rows) / len(rows) < 0.22


def test_a_caffe_list_stands_as_it_is_written():
    caffe = Source("train=a test=b", {"train": b"my dir/b c.jpg 1\n\na.jpg 0\n", "test": b"z.jpg 1"}, PATHS)
    rows = select_rows(caffe, Selection())[0].to_pylist()
    assert [(row["image_url"], row["label"], row["split"]) for row in rows] == [
        ("my dir/b c.jpg", 1, "train"),
        ("a.jpg", 0, "train"),
        ("z.jpg", 1, "test"),
    ]
    assert [row["row"] for row in rows] == [0, 1, 2]


def test_strange_urls_come_through_unchanged():
    urls = ['http://h/a "b".jpg', "http://h/é,ü.jpg", "ftp://h/x", "", "http://h/a\tb"]
    text = io.StringIO(newline="")
    csv.writer(text).writerows([["image_url", "label"], *([url, 0] for url in urls)])
    assert [row["image_url"] for row in in_list_order(rows_of(text.getvalue()))] == urls


@pytest.mark.parametrize("form", ["csv", "json"])
def test_a_column_may_be_as_long_as_it_likes(form):
    long = "x" * 3_000_000
    body = f'{{"image_url": "http://h/1", "label": 0, "text": "{long}"}}\n'
    if form == "csv":
        body = f"image_url,label,text\nhttp://h/1,0,{long}\n"
    (row,) = rows_of(body)
    assert json.loads(row["extra"]) == {"text": long}


@pytest.mark.parametrize(
    ("body", "named"),
    [
        ("url,label\nhttp://h/1,0\n", "image_url"),
        ("image_url,style\nhttp://h/1,0\n", "label"),
        ("image_url,label\nhttp://h/1\n", "line 2"),
        ("image_url,label,label\nhttp://h/1,0,0\n", "header"),
        ("image_url,label\nhttp://h/1,\n", "row 0"),
        ("image_url,label,_split\nhttp://h/1,0,../up\n", "../up"),
        ("image_url,label,split\nhttp://h/1,0,\n", "row 0"),
        ("image_url,label\n", "no row"),
        ("", "image_url"),
        (b"\xff\xfe\x00", "UTF-8"),
        (
            b'{"image_url": "http://h/1", "label": 0, "split": null}\n{"image_url": "h", "label": 0, "split": "x"}',
            "row 0",
        ),
        (b"\x1f\x8b\x08\x00damaged", "list.csv"),
        (b"PAR1damagedPAR1", "list.csv"),
        (b'{"image_url": "http://h/1", "label": \n', "list.csv"),
    ],
)
def test_a_list_that_is_none_is_one_line(body, named):
    with pytest.raises(ShardsError) as caught:
        rows_of(body)
    assert named in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_label_outside_the_classes_is_named():
    with pytest.raises(ShardsError, match="'hazy'"):
        rows_of("image_url,label\nhttp://h/1,hazy\n", classes=("noir",))
    with pytest.raises(ShardsError, match="row 0's label '2'"):
        rows_of("image_url,label\nhttp://h/1,2\n", classes=("noir", "hazy"))


def test_a_class_list_may_have_names_that_look_like_numbers():
    for labels, numbers in ((["1950", "-3", "noir"], [1, 2, 0]), (["1960", "1950"], [3, 1])):
        body = "image_url,label\n" + "".join(f"http://h/{row},{label}\n" for row, label in enumerate(labels))
        rows = in_list_order(rows_of(body, classes=("noir", "1950", "-3", "1960")))
        assert [row["label"] for row in rows] == numbers


@pytest.mark.parametrize("line", ["a.jpg", "a.jpg x", "a.jpg -1", "7", "a.jpg 100000", f"a.jpg {'9' * 5000}"])
def test_a_caffe_line_without_path_or_label_is_named(line):
    with pytest.raises(ShardsError, match=r"^--list train=my/train\.txt, line 2: "):
        select_rows(Source("", {"train": b"ok.jpg 0\n" + line.encode()}, {"train": "my/train.txt"}), Selection())


def test_choosing_from_a_caffe_list_is_refused():
    with pytest.raises(ShardsError, match="--images"):
        select_rows(Source("train=a", {"train": b"ok.jpg 0\n"}), Selection(images=1))
    with pytest.raises(ShardsError, match="--split by_owner"):
        select_rows(Source("train=a", {"train": b"ok.jpg 0\n"}), Selection(split="by_owner"))


@pytest.mark.parametrize("text", ["", "noir\nnoir\n", None])
def test_a_class_list_that_is_none_is_named(tmp_path, text):
    path = tmp_path / "classes.txt"
    if text is not None:
        path.write_text(text)
    with pytest.raises(ShardsError, match=r"classes\.txt"):
        read_classes(str(path))


@pytest.mark.parametrize("label", ["-1", "100000", "900000000", "9" * 5000, "3.0", "1e3", "hazy"])
def test_a_number_that_is_no_label_is_refused_not_taken_for_a_name(label):
    body = f"image_url,label\nhttp://a/1.jpg,2\nhttp://a/2.jpg,{label}\n".encode()
    with pytest.raises(ShardsError, match=rf"row 1 has the label '{label[:60]}'; numbers go from 0 to 99,999"):
        select_rows(source(body), Selection())
