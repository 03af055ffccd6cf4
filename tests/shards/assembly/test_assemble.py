import os
from pathlib import Path

import cv2
import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
import webdataset
from rich.console import Console

from shards.assembly.repack import RepackConfig, repack
from shards.errors import ShardsError
from shards.format import images
from shards.format.index import ShardIndex
from shards.storage.snapshot import Snapshot
from shards.verify.verify import verify
from tests import odd_pictures
from tests.assembly import outcomes_by_row, serve_pictures, tars_and_index
from tests.loopback import Answer, redirect

ROOT = Path(__file__).parents[3]


def decoded(root: Path, split: str) -> list[np.ndarray]:
    entries = ShardIndex.load(root).entries(split)
    found = []
    for shard, offset, length, format_ in zip(
        entries.shard, entries.offset, entries.length, entries.format, strict=True
    ):
        body = (root / shard).read_bytes()[offset : offset + length]
        found.append(images.read_member(body, format_))
    return found


def test_each_kind_of_answer_has_its_outcome(server, draw_jpg, write_list, run_assemble, tmp_path):
    picture = Answer(draw_jpg(0))
    server.add("/images/photo_unavailable.png", Answer(draw_jpg(99)))
    failing = {
        "kept": [picture],
        "not_found": [Answer(status=404)],
        "gone": [Answer(status=410)],
        "forbidden": [Answer(status=403)],
        "server_error": [Answer(status=500)],
        "not_an_image": [Answer(b"<html>no picture</html>")],
        "placeholder": [redirect("/images/photo_unavailable.png")],
        "corrupt": [Answer(draw_jpg(1)[:-300])],
        "incomplete": [Answer(draw_jpg(1), transfer="truncated")],
    }
    recovering = {
        "429": [Answer(status=429, headers={"Retry-After": "1"}), picture],
        "500": [Answer(status=500), picture],
        "reset": [Answer(draw_jpg(3), transfer="reset"), Answer(draw_jpg(3))],
    }
    rows = [
        {"image_url": server.add(f"/{name}.jpg", *answers), "label": 0, "split": "train"}
        for name, answers in (failing | recovering).items()
    ]
    rows += [
        {"image_url": url, "label": 0, "split": "train"} for url in ("ftp://127.0.0.1/a", "/etc/passwd", "http://[")
    ]
    printed = run_assemble(list=write_list(rows), attempts=2)
    statuses = [row["status"] for _, row in sorted(outcomes_by_row(tmp_path / "out").items())]
    assert statuses == [*failing, *["kept"] * len(recovering), *["unsupported_url"] * 3]
    assert len(ShardIndex.load(tmp_path / "out").entries("train")) == 4
    lines = printed.splitlines()
    assert lines[0] == "Downloading 15 images with 2 workers..."
    assert "Writing train/val for 4 successfully downloaded images." in lines
    assert any(line.split() == ["unsupported_url", "3"] for line in lines)


def test_doubtful_classes_and_splits_are_reported(server, draw_jpg, write_list, run_assemble):
    url = server.add("/1.jpg", Answer(draw_jpg(0)))
    rows = [("cat", "train"), ("Cat", "train"), ("dog", "Test"), ("nan", "Test"), ("dog", "val")]
    printed = run_assemble(
        list=write_list([{"image_url": url, "label": label, "split": split} for label, split in rows])
    )
    warnings = [line for line in printed.splitlines() if line.startswith("warning: ")]
    assert [warning.split(": ", 2)[2].partition("; ")[0] for warning in warnings] == [
        "its split Test isn't the split test, which training reads by default",
        "classes with the name of a missing value: nan",
        "different classes whose names differ only in case, spaces or Unicode form: Cat and cat",
        "classes without training pictures: dog, nan",
    ]


def test_a_list_without_test_pictures_is_reported(server, draw_jpg, write_list, run_assemble, tmp_path):
    path = write_list([{"image_url": server.add("/1.jpg", Answer(draw_jpg(0))), "label": "cat", "split": "train"}])
    assert "warning: " in (printed := run_assemble(list=path))
    assert "all pictures are in the split train; to train without tests" in " ".join(printed.split())
    assert "warning" not in run_assemble(list=path, out=tmp_path / "unlabelled", label_col=None)


def test_a_class_that_is_never_the_first_label_of_a_picture_has_training_pictures(
    server, draw_jpg, write_list, run_assemble
):
    url = server.add("/1.jpg", Answer(draw_jpg(0)))
    rows = [{"image_url": url, "label": "cat|dog", "split": split} for split in ("train", "test")]
    assert "warning" not in run_assemble(list=write_list(rows), label_separator="|")


def test_pixels_equal_the_decoded_originals(server, draw_jpg, write_list, run_assemble, tmp_path):
    path = write_list(serve_pictures(server, draw_jpg, 20))
    for encode_format in ("original", "pixels", "jpg"):
        out = tmp_path / encode_format
        run_assemble(list=path, out=out, encode_format=encode_format, image_size=32, rows_per_shard=7)
        samples = list(webdataset.WebDataset(sorted(map(str, out.glob("train/*.tar"))), shardshuffle=False))
        assert [sample["__key__"] for sample in samples] == list(ShardIndex.load(out).entries("train").key)
    for split, count in {"train": 16, "test": 4}.items():
        originals = [images.resize_picture(pixels, 32) for pixels in decoded(tmp_path / "original", split)]
        assert len(originals) == count
        np.testing.assert_array_equal(originals, decoded(tmp_path / "pixels", split))
        assert np.shape(decoded(tmp_path / "jpg", split)) == (count, 32, 32, 3)


def test_the_index_has_labels_classes_and_order(server, draw_jpg, write_list, run_assemble, tmp_path):
    rows = [
        {"id": f"p{number}", "image_url": server.add(f"/{number}.jpg", Answer(draw_jpg(number)))}
        | {"label": ["noir", "hazy"][number % 2], "split": "train"}
        for number in range(12)
    ]
    run_assemble(list=write_list(rows), images=9, seed=5)
    expected = np.random.RandomState(5).permutation(12)[:9]
    entries = ShardIndex.load(tmp_path / "out").entries("train")
    assert list(entries.key) == [f"p{row}" for row in expected]
    assert entries.label.tolist() == [1 - row % 2 for row in expected]
    assert ShardIndex.load(tmp_path / "out").metadata.classes == ("hazy", "noir")


def test_local_pictures_of_a_caffe_list(draw_jpg, run_assemble, tmp_path):
    (tmp_path / "my pictures").mkdir()
    for number in range(5):
        (tmp_path / "my pictures" / f"{number}.jpg").write_bytes(draw_jpg(number))
    (tmp_path / "my pictures" / "large.jpg").write_bytes(draw_jpg(0) + bytes(100_000))
    names = ["3.jpg 1", "0.jpg 0", "lost.jpg 1", "4.jpg 2", "large.jpg 0"]
    (tmp_path / "train.txt").write_text("".join(f"{tmp_path}/my pictures/{name}\n" for name in names))
    (tmp_path / "test.txt").write_text(f"{tmp_path}/my pictures/1.jpg 1\n")
    lists = [f"train={tmp_path / 'train.txt'}", f"test={tmp_path / 'test.txt'}"]
    run_assemble(list=lists, max_bytes=100_000)  # a limit of downloads
    rows = outcomes_by_row(tmp_path / "out")
    assert [rows[row]["status"] for row in range(6)] == [
        "kept",
        "kept",
        "missing_file",
        "kept",
        "kept",
        "kept",
    ]
    assert ShardIndex.load(tmp_path / "out").entries("train").label.tolist() == [1, 0, 2, 0]
    np.testing.assert_array_equal(decoded(tmp_path / "out", "train")[0], images.decode_picture(draw_jpg(3)))
    assert len(list((tmp_path / "my pictures").iterdir())) == 6  # local files are unchanged


def test_what_opencv_reads_is_packed_from_a_caffe_list(run_assemble, tmp_path):
    """A format that no tar may have becomes a PNG with the same pixels, also in repacked and verified shards."""
    picture, tiny = odd_pictures.smooth(5), odd_pictures.smooth(6, 3, 5)
    bodies = {
        "a.ppm": odd_pictures.encode(".ppm", picture),
        "b.tif": odd_pictures.encode(".tif", picture),
        "c.jpg": odd_pictures.encode(".jpg", picture)[:-2],  # without its end marker
        "d.png": odd_pictures.encode(".png", tiny),
        "训练.ppm": odd_pictures.encode(".ppm", tiny),
        "cut.tif": odd_pictures.encode(".tif", picture)[:900],
    }
    for name, body in bodies.items():
        (tmp_path / os.fsdecode(name.encode("gbk"))).write_bytes(body)
    lines = [f"{tmp_path}/{name}\t{label}" for label, name in enumerate(bodies)]
    (tmp_path / "train.txt").write_bytes("\n".join(lines).encode("gbk"))
    run_assemble(list=[f"train={tmp_path}/train.txt"])
    rows = outcomes_by_row(tmp_path / "out")
    assert [rows[row]["status"] for row in range(6)] == ["kept"] * 5 + ["not_an_image"]
    entries = ShardIndex.load(tmp_path / "out").entries("train")
    assert list(entries.format) == ["png", "png", "jpg", "png", "png"]
    for found, body in zip(decoded(tmp_path / "out", "train"), bodies.values(), strict=False):
        whole = body + b"\xff\xd9" if body is bodies["c.jpg"] else body
        bgr = cv2.imdecode(np.frombuffer(whole, np.uint8), cv2.IMREAD_COLOR)
        np.testing.assert_array_equal(found, bgr[:, :, ::-1])
    assert verify(Snapshot(tmp_path / "out"), Console(quiet=True)).differences == []
    for _ in range(2):  # the second finds nothing to do
        repack(RepackConfig(dir=tmp_path / "out", encode_format="pixels", image_size=32), Console(quiet=True))
    run_assemble(list=[f"train={tmp_path}/train.txt"], out=tmp_path / "direct", encode_format="pixels", image_size=32)
    columns = ["row", "status", "sha256", "bytes", "format"]
    for name in ("out-pixels", "direct"):
        outcomes = pq.read_table(tmp_path / name / "outcomes.parquet", columns=columns)
        assert outcomes.equals(pq.read_table(tmp_path / "out" / "outcomes.parquet", columns=columns))
    np.testing.assert_array_equal(decoded(tmp_path / "out-pixels", "train"), decoded(tmp_path / "direct", "train"))


def test_a_url_list_cannot_name_local_files(server, draw_jpg, write_list, run_assemble, tmp_path):
    (tmp_path / "a.jpg").write_bytes(draw_jpg(0))
    paths = [str(tmp_path / "a.jpg"), f"file://{tmp_path}/a.jpg"]
    with pytest.raises(ShardsError, match=r"none of its rows has an http or https URL .* add --local"):
        run_assemble(list=write_list([{"image_url": path, "label": 0} for path in paths]))
    assert not (tmp_path / "out" / "blocks").exists()
    urls = [server.add("/a.jpg", Answer(draw_jpg(0))), *paths]
    run_assemble(list=write_list([{"image_url": url, "label": 0} for url in urls]))
    rows = outcomes_by_row(tmp_path / "out")
    assert [rows[row]["status"] for row in range(3)] == ["kept", "unsupported_url", "unsupported_url"]
    assert "--local" in rows[1]["message"]


def test_output_paths_never_come_from_the_list(server, draw_jpg, write_list, run_assemble, tmp_path):
    rows = [
        {"id": "../../evil", "image_url": server.add("/..%2f..%2fevil.jpg", Answer(draw_jpg(0))), "label": 0}
        | {"split": "train", "out": "../evil"}
    ]
    run_assemble(list=write_list(rows))
    assert ShardIndex.load(tmp_path / "out").entries("train").key[0] == "______evil-0"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["list.csv", "out"]


def test_out_may_be_a_relative_path(server, draw_jpg, write_list, run_assemble, tmp_path, monkeypatch):
    server.add("/a.jpg", Answer(draw_jpg(1)))
    listed = write_list([{"image_url": f"{server.url}/a.jpg", "label": "0", "split": "train"}])
    monkeypatch.chdir(tmp_path)
    assert "for 1 successfully downloaded" in run_assemble(list=listed, out=Path("new folder/shards"))
    assert (tmp_path / "new folder" / "shards" / "index.parquet").is_file()


def test_a_second_run_requests_nothing(server, draw_jpg, write_list, run_assemble, tmp_path):
    path = write_list(serve_pictures(server, draw_jpg, 10))
    run_assemble(list=path)
    before, requested = tars_and_index(tmp_path / "out"), len(server.requests)
    printed = run_assemble(list=path)
    assert len(server.requests) == requested
    assert tars_and_index(tmp_path / "out") == before
    assert "10 of 10 were done before" in printed
    assert "Writing train/val for 10 successfully downloaded images." in printed


@pytest.mark.parametrize(
    "lost", ["blocks/train-00002.outcomes.parquet", "blocks/train-00002.index.parquet", "train/00002.tar"]
)
def test_only_a_lost_block_is_made_again(server, draw_jpg, write_list, run_assemble, tmp_path, lost):
    path = write_list(serve_pictures(server, draw_jpg, 20))
    run_assemble(list=path, rows_per_shard=4)
    before, requested = tars_and_index(tmp_path / "out"), len(server.requests)
    (tmp_path / "out" / lost).unlink()
    run_assemble(list=path, rows_per_shard=4)
    assert len(server.requests) == requested + 4
    assert tars_and_index(tmp_path / "out") == before


def test_a_block_with_a_truncated_tar_is_made_again(server, draw_jpg, write_list, run_assemble, tmp_path):
    path = write_list(serve_pictures(server, draw_jpg, 10))
    run_assemble(list=path, rows_per_shard=4)
    before, requested = tars_and_index(tmp_path / "out"), len(server.requests)
    last = ShardIndex.load(tmp_path / "out").table.filter(pc.field("shard") == "train/00001.tar").to_pylist()[-1]
    os.truncate(tmp_path / "out" / "train" / "00001.tar", last["offset"] + last["length"] - 1)
    run_assemble(list=path, rows_per_shard=4)
    assert len(server.requests) == requested + 4
    assert tars_and_index(tmp_path / "out") == before


@pytest.mark.parametrize("change", [{"seed": 2}, {"encode_format": "pixels"}, {"images": 3}, {"rows_per_shard": 2}])
def test_other_settings_are_refused_and_named(server, draw_jpg, write_list, run_assemble, change):
    path = write_list(serve_pictures(server, draw_jpg, 5))
    run_assemble(list=path)
    with pytest.raises(ShardsError, match=next(iter(change))):
        run_assemble(list=path, **change)


def test_requests_use_the_proxy(server, draw_jpg, write_list, run_assemble, tmp_path):
    url = server.add("http://farm1.example.com/a.jpg", Answer(draw_jpg(0)))
    run_assemble(list=write_list([{"image_url": url, "label": 0}]), proxy=server.url)
    assert outcomes_by_row(tmp_path / "out")[0]["status"] == "kept"
