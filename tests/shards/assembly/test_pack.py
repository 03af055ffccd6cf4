import dataclasses
import datetime as dt
import hashlib
import io
import json

import cv2
import numpy as np
import pyarrow.parquet as pq
import pytest
import webdataset

from shards.assembly import pack
from shards.assembly.pack import PackJob, pack_block
from shards.errors import ShardsError
from shards.format import images
from shards.format.outcomes import Outcome, Status
from shards.storage.shard_dir import Block

BLOCK = Block("train", 3)


def outcome(status: Status = Status.KEPT, **fields) -> Outcome:
    return Outcome(status, dt.datetime(2026, 1, 2, tzinfo=dt.UTC), attempts=1, final_url="http://h/x.jpg", **fields)


@pytest.fixture
def packing(tmp_path):
    """Prepares to pack bodies; None is a row that never came."""

    def prepare(bodies: list[bytes | None], encode_format: str = "original", name: str = "out") -> PackJob:
        work = tmp_path / f"{name}-work"
        work.mkdir()
        rows, arrivals = [], {}
        for row, body in enumerate(bodies):
            rows.append(
                {"row": row, "key": f"k{row}", "image_url": f"http://h/{row}", "split": "train", "label": row % 20}
                | {"extra": json.dumps({"page_url": f"http://p/é{row}"})}
            )
            path = work / f"{row}.1"
            if body is None:
                arrivals[row] = (outcome(Status.GONE, message="gone"), None)
            else:
                path.write_bytes(body)
                arrivals[row] = (outcome(), path)
        return PackJob(tmp_path / name, work, BLOCK, rows, arrivals, encode_format, 32)

    return prepare


def entries(packing: PackJob) -> list[dict]:
    return pq.read_table(packing.root / BLOCK.index_part).to_pylist()


def ledger(packing: PackJob) -> list[dict]:
    return pq.read_table(packing.root / BLOCK.outcomes_part).to_pylist()


def stored(packing: PackJob, entry: dict) -> bytes:
    tar = (packing.root / entry["shard"]).read_bytes()
    return tar[entry["offset"] : entry["offset"] + entry["length"]]


def test_originals_are_kept_as_they_came(packing, draw_jpg):
    png = cv2.imencode(".png", np.zeros((20, 30, 3), np.uint8))[1].tobytes()
    bodies = [draw_jpg(0), None, png]
    todo = packing(bodies)
    assert pack_block(todo) == {Status.KEPT: 2, Status.GONE: 1}
    first, second = entries(todo)
    assert stored(todo, first) == bodies[0]
    assert stored(todo, second) == png
    assert (first["format"], first["width"], first["height"]) == ("jpg", 90, 60)
    assert (second["format"], second["width"], second["height"]) == ("png", 30, 20)
    assert [entry["row"] for entry in (first, second)] == [0, 2]
    assert first["sha256"] == hashlib.sha256(bodies[0]).hexdigest()


@pytest.mark.parametrize("encode_format", ["original", "pixels", "jpg"])
def test_the_index_finds_every_picture(packing, draw_jpg, encode_format):
    bodies = [draw_jpg(number) for number in range(4)]
    todo = packing(bodies, encode_format)
    pack_block(todo)
    for body, entry in zip(bodies, entries(todo), strict=True):
        member = stored(todo, entry)
        assert hashlib.sha256(member).hexdigest() == entry["sha256"]
        pixels = images.read_member(member, entry["format"])
        assert pixels.shape == (entry["height"], entry["width"], 3)
        expected = (
            images.decode_picture(body)
            if encode_format == "original"
            else images.resize_picture(images.decode_picture(body), 32)
        )
        if encode_format == "jpg":
            assert np.abs(pixels.astype(int) - expected).mean() < 10  # swapped colours would differ by 50
        else:
            np.testing.assert_array_equal(pixels, expected)


def test_original_and_pixels_give_the_same_pixels(packing, draw_jpg):
    bodies = [draw_jpg(number, 50 + number, 200) for number in range(3)]
    originals, pixels = packing(bodies, "original", "a"), packing(bodies, "pixels", "b")
    for todo in (originals, pixels):
        pack_block(todo)
    for one, other in zip(entries(originals), entries(pixels), strict=True):
        assert other["format"] == "npy"
        assert other["length"] == 128 + 32 * 32 * 3
        resized = images.resize_picture(images.read_member(stored(originals, one), one["format"]), 32)
        np.testing.assert_array_equal(resized, images.read_member(stored(pixels, other), "npy"))


@pytest.mark.parametrize(("encode_format", "member"), [("original", "jpg"), ("pixels", "npy"), ("jpg", "jpg")])
def test_stock_webdataset_reads_the_tar(packing, draw_jpg, encode_format, member):
    bodies = [draw_jpg(number) for number in range(3)]
    todo = packing(bodies, encode_format)
    pack_block(todo)
    dataset = webdataset.WebDataset(str(todo.root / BLOCK.shard), shardshuffle=False)
    samples = list(dataset)
    assert [sample["__key__"] for sample in samples] == ["k0", "k1", "k2"]
    assert [sample["cls"] for sample in samples] == [b"0", b"1", b"2"]
    assert json.loads(samples[1]["json"]) == {"image_url": "http://h/1", "page_url": "http://p/é1"}
    if encode_format == "pixels":
        np.testing.assert_array_equal(
            np.load(io.BytesIO(samples[2][member])), images.resize_picture(images.decode_picture(bodies[2]), 32)
        )
    else:
        assert images.decode_picture(samples[2][member]).shape[2] == 3


def test_equal_bodies_make_equal_files_however_they_came(packing, draw_jpg):
    bodies = [draw_jpg(0), b"<html>", None, draw_jpg(1)]
    once, again = packing(bodies, name="a"), packing(bodies, name="b")
    later = {
        row: (dataclasses.replace(came, attempts=3, seconds=9.0, time=dt.datetime(2027, 1, 1, tzinfo=dt.UTC)), path)
        for row, (came, path) in again.arrivals.items()
    }
    pack_block(once)
    pack_block(dataclasses.replace(again, arrivals=later))
    for name in (BLOCK.shard, BLOCK.index_part):
        assert (once.root / name).read_bytes() == (again.root / name).read_bytes()


def test_the_ledger_has_every_row_and_why(packing, draw_jpg):
    gif_header = b"GIF89a" + (30000).to_bytes(2, "little") * 2
    bodies = [draw_jpg(0), b"<html></html>", None, draw_jpg(1)[:-200], draw_jpg(2, 8, 90), gif_header, b""]
    todo = packing(bodies)
    pack_block(todo)
    statuses = [row["status"] for row in ledger(todo)]
    assert statuses == ["kept", "not_an_image", "gone", "corrupt", "too_small", "too_many_pixels", "not_an_image"]
    rows = ledger(todo)
    assert [row["bytes"] for row in rows] == [len(body) if body is not None else None for body in bodies]
    assert rows[1]["sha256"] == hashlib.sha256(bodies[1]).hexdigest()
    assert [row["key"] for row in rows] == [f"k{row}" for row in range(7)]
    assert all(row["message"] for row in rows[1:])
    assert rows[0]["message"] == ""
    assert [entry["row"] for entry in entries(todo)] == [0]


def test_the_placeholder_is_no_picture(packing, draw_jpg, monkeypatch):
    known = draw_jpg(1)
    monkeypatch.setattr(pack, "_PLACEHOLDER_SHA1", hashlib.sha1(known).hexdigest())
    todo = packing([draw_jpg(0), known, draw_jpg(2)])
    redirected = dataclasses.replace(todo.arrivals[2][0], final_url="https://h/images/photo_unavailable_l.png?x=1")
    todo = dataclasses.replace(todo, arrivals=todo.arrivals | {2: (redirected, todo.arrivals[2][1])})
    pack_block(todo)
    assert [row["status"] for row in ledger(todo)] == ["kept", "placeholder", "placeholder"]


def test_a_block_without_pictures_is_committed_all_the_same(packing):
    todo = packing([None, None])
    pack_block(todo)
    assert entries(todo) == []
    assert len(ledger(todo)) == 2
    assert (todo.root / BLOCK.shard).is_file()


@pytest.mark.parametrize("blocked", ["shard", "index_part"])
def test_a_block_that_is_made_again_is_uncommitted_meanwhile(packing, draw_jpg, blocked):
    todo = packing([draw_jpg(0)])
    pack_block(todo)
    path = todo.root / getattr(BLOCK, blocked)
    path.unlink()
    path.mkdir()  # so that the new file can't take its name, as after a kill at that moment
    with pytest.raises(IsADirectoryError):
        pack_block(dataclasses.replace(packing([draw_jpg(0)], name="again"), root=todo.root))
    assert not (todo.root / BLOCK.outcomes_part).exists()


def test_a_download_is_removed_as_it_is_read_and_a_lists_own_picture_is_not(packing, draw_jpg, tmp_path):
    todo = packing([draw_jpg(0), draw_jpg(1)])
    mine = tmp_path / "mine.jpg"
    mine.write_bytes(draw_jpg(1))
    todo.arrivals[1] = (todo.arrivals[1][0], mine)
    pack_block(todo)
    assert mine.read_bytes() == draw_jpg(1)
    assert not list(todo.work.glob("0.*"))


def again(packing: PackJob, rows: list[int]) -> PackJob:
    """The same block, of which these rows came anew and the others are what they were."""
    arrivals = {row: packing.arrivals[row] for row in rows}
    return dataclasses.replace(packing, arrivals=arrivals, is_committed=True)


def files(packing: PackJob) -> list[bytes]:
    return [(packing.root / name).read_bytes() for name in (BLOCK.shard, BLOCK.index_part)]


@pytest.mark.parametrize("encode_format", ["original", "pixels", "jpg"])
def test_a_block_made_in_pieces_is_the_block_made_at_once(packing, draw_jpg, encode_format):
    webp = cv2.imencode(".webp", np.full((20, 30, 3), 99, np.uint8))[1].tobytes()
    bodies = [draw_jpg(0), None, webp, draw_jpg(3), b"<html>", draw_jpg(5), None]
    at_once = packing(bodies, encode_format, "once")
    pack_block(at_once)
    pieces = packing(bodies, encode_format, "pieces")
    failed = {row: (outcome(Status.TIMEOUT), None) for row in (0, 3)}
    first = dataclasses.replace(
        pieces, rows=pieces.rows[:4], arrivals={1: pieces.arrivals[1], 2: pieces.arrivals[2]} | failed
    )
    pack_block(first)
    for body_path in pieces.work.glob("2.*"):
        body_path.unlink()  # what is stored is all there is of it
    assert pack_block(again(pieces, [4, 5, 6])) == {Status.NOT_AN_IMAGE: 1, Status.KEPT: 1, Status.GONE: 1}
    assert pack_block(again(pieces, [0, 3])) == {Status.KEPT: 2}
    assert files(pieces) == files(at_once)
    assert ledger(pieces) == ledger(at_once)
    assert list((pieces.root / "blocks").glob("*.redo")) == []


def test_a_picture_is_left_out_of_a_block_as_if_it_had_never_come(packing, draw_jpg):
    bodies = [draw_jpg(0), draw_jpg(1), draw_jpg(2)]
    without = packing([bodies[0], None, bodies[2]], name="without")
    pack_block(without)
    todo = packing(bodies)
    pack_block(todo)
    dropped = outcome(Status.PLACEHOLDER, sha256="ab", message="the same bytes under 20 URLs")
    left_out = dataclasses.replace(todo, arrivals={1: (dropped, None)}, is_committed=True)
    assert pack_block(left_out) == {Status.PLACEHOLDER: 1}
    assert files(todo) == files(without)
    assert [(row["status"], row["message"]) for row in ledger(todo)][1] == (
        "placeholder",
        "the same bytes under 20 URLs",
    )


def test_where_no_picture_came_nor_went_the_tar_is_left_alone(packing, draw_jpg):
    todo = packing([draw_jpg(0), None])
    pack_block(todo)
    before = [(todo.root / name).stat() for name in (BLOCK.shard, BLOCK.index_part)]
    pack_block(dataclasses.replace(todo, arrivals={1: (outcome(Status.FORBIDDEN), None)}, is_committed=True))
    assert [row["status"] for row in ledger(todo)] == ["kept", "forbidden"]
    after = [(todo.root / name).stat() for name in (BLOCK.shard, BLOCK.index_part)]
    assert [(file.st_ino, file.st_mtime_ns) for file in after] == [(file.st_ino, file.st_mtime_ns) for file in before]


def test_a_damaged_tar_is_not_copied_on(packing, draw_jpg):
    todo = packing([draw_jpg(0), draw_jpg(1)])
    pack_block(todo)
    entry = entries(todo)[0]
    with (todo.root / BLOCK.shard).open("r+b") as tar:
        tar.seek(entry["offset"] + 50)
        tar.write(b"\xff\x00\xff")
    before = files(todo)
    with pytest.raises(ShardsError, match=r"train/00003.tar is damaged at the picture k0; remove it, and the assemble"):
        pack_block(again(todo, [1]))
    assert files(todo) == before
