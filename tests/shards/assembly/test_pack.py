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
from shards.assembly.pack import PackJob, find_checksum_mismatch, pack_block
from shards.download.body_slots import StoredBody
from shards.errors import ShardsError
from shards.format import images
from shards.format.outcomes import Outcome, Status
from shards.storage.shard_dir import Block

BLOCK = Block("train", 3)


def outcome(status: Status = Status.KEPT, **fields) -> Outcome:
    return Outcome(status, dt.datetime(2026, 1, 2, tzinfo=dt.UTC), attempts=1, final_url="http://h/x.jpg", **fields)


@pytest.fixture
def create_job(tmp_path):
    """Create a job for response bodies; None is a row that was not found."""

    def create(bodies: list[bytes | None], encode_format: str = "original", name: str = "out") -> PackJob:
        work = tmp_path / f"{name}-work"
        work.mkdir()
        rows, results = [], {}
        for row, body in enumerate(bodies):
            rows.append(
                {"row": row, "key": f"k{row}", "image_url": f"http://h/{row}", "split": "train", "label": row % 20}
                | {"extra": json.dumps({"page_url": f"http://p/é{row}"})}
            )
            if body is None:
                results[row] = (outcome(Status.GONE, message="gone"), None)
            else:
                with (work / "bodies").open("ab") as file:
                    results[row] = (outcome(), StoredBody(work / "bodies", file.tell(), len(body)))
                    file.write(body)
        return PackJob(tmp_path / name, work, BLOCK, rows, results, encode_format, 32)

    return create


def entries(job: PackJob) -> list[dict]:
    return pq.read_table(job.root / BLOCK.index_part).to_pylist()


def outcomes(job: PackJob) -> list[dict]:
    return pq.read_table(job.root / BLOCK.outcomes_part).to_pylist()


def stored(job: PackJob, entry: dict) -> bytes:
    tar = (job.root / entry["shard"]).read_bytes()
    return tar[entry["offset"] : entry["offset"] + entry["length"]]


def test_originals_are_stored_unchanged(create_job, draw_jpg):
    png = cv2.imencode(".png", np.zeros((20, 30, 3), np.uint8))[1].tobytes()
    bodies = [draw_jpg(0), None, png]
    job = create_job(bodies)
    assert pack_block(job) == {Status.KEPT: 2, Status.GONE: 1}
    first, second = entries(job)
    assert stored(job, first) == bodies[0]
    assert stored(job, second) == png
    assert (first["format"], first["width"], first["height"]) == ("jpg", 90, 60)
    assert (second["format"], second["width"], second["height"]) == ("png", 30, 20)
    assert [entry["row"] for entry in (first, second)] == [0, 2]
    assert first["sha256"] == hashlib.sha256(bodies[0]).hexdigest()


@pytest.mark.parametrize("encode_format", ["original", "pixels", "jpg"])
def test_the_index_finds_every_picture(create_job, draw_jpg, encode_format):
    bodies = [draw_jpg(number) for number in range(4)]
    job = create_job(bodies, encode_format)
    pack_block(job)
    for body, entry in zip(bodies, entries(job), strict=True):
        member = stored(job, entry)
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


def test_original_and_pixels_give_the_same_pixels(create_job, draw_jpg):
    bodies = [draw_jpg(number, 50 + number, 200) for number in range(3)]
    originals, pixels = create_job(bodies, "original", "a"), create_job(bodies, "pixels", "b")
    for job in (originals, pixels):
        pack_block(job)
    for one, other in zip(entries(originals), entries(pixels), strict=True):
        assert other["format"] == "npy"
        assert other["length"] == 128 + 32 * 32 * 3
        resized = images.resize_picture(images.read_member(stored(originals, one), one["format"]), 32)
        np.testing.assert_array_equal(resized, images.read_member(stored(pixels, other), "npy"))


@pytest.mark.parametrize(("encode_format", "member"), [("original", "jpg"), ("pixels", "npy"), ("jpg", "jpg")])
def test_stock_webdataset_reads_the_tar(create_job, draw_jpg, encode_format, member):
    bodies = [draw_jpg(number) for number in range(3)]
    job = create_job(bodies, encode_format)
    pack_block(job)
    dataset = webdataset.WebDataset(str(job.root / BLOCK.shard), shardshuffle=False)
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


def test_equal_bodies_give_equal_files_whatever_the_attempts_and_times(create_job, draw_jpg):
    bodies = [draw_jpg(0), b"<html>", None, draw_jpg(1)]
    first, second = create_job(bodies, name="a"), create_job(bodies, name="b")
    later = {
        row: (dataclasses.replace(download, attempts=3, seconds=9.0, time=dt.datetime(2027, 1, 1, tzinfo=dt.UTC)), path)
        for row, (download, path) in second.results.items()
    }
    pack_block(first)
    pack_block(dataclasses.replace(second, results=later))
    for name in (BLOCK.shard, BLOCK.index_part):
        assert (first.root / name).read_bytes() == (second.root / name).read_bytes()


def test_every_row_has_an_outcome_with_a_message(create_job, draw_jpg):
    gif_header = b"GIF89a" + (30000).to_bytes(2, "little") * 2
    bodies = [draw_jpg(0), b"<html></html>", None, draw_jpg(1)[:-200], draw_jpg(2, 8, 90), gif_header, b""]
    job = create_job(bodies)
    pack_block(job)
    statuses = [row["status"] for row in outcomes(job)]
    assert statuses == ["kept", "not_an_image", "gone", "corrupt", "too_small", "too_many_pixels", "not_an_image"]
    rows = outcomes(job)
    assert [row["bytes"] for row in rows] == [len(body) if body is not None else None for body in bodies]
    assert rows[1]["sha256"] == hashlib.sha256(bodies[1]).hexdigest()
    assert [row["key"] for row in rows] == [f"k{row}" for row in range(7)]
    assert all(row["message"] for row in rows[1:])
    assert rows[0]["message"] == ""
    assert [entry["row"] for entry in entries(job)] == [0]


def test_placeholders_are_recognized_by_checksum_and_redirect(create_job, draw_jpg, monkeypatch):
    known = draw_jpg(1)
    monkeypatch.setattr(pack, "_PLACEHOLDER_SHA1", hashlib.sha1(known).hexdigest())
    job = create_job([draw_jpg(0), known, draw_jpg(2)])
    redirected = dataclasses.replace(job.results[2][0], final_url="https://h/images/photo_unavailable_l.png?x=1")
    job = dataclasses.replace(job, results=job.results | {2: (redirected, job.results[2][1])})
    pack_block(job)
    assert [row["status"] for row in outcomes(job)] == ["kept", "placeholder", "placeholder"]


def test_a_block_without_pictures_is_committed(create_job):
    job = create_job([None, None])
    pack_block(job)
    assert entries(job) == []
    assert len(outcomes(job)) == 2
    assert (job.root / BLOCK.shard).is_file()


@pytest.mark.parametrize("blocked", ["shard", "index_part"])
def test_a_block_is_not_committed_while_it_is_packed_again(create_job, draw_jpg, blocked):
    job = create_job([draw_jpg(0)])
    pack_block(job)
    path = job.root / getattr(BLOCK, blocked)
    path.unlink()
    path.mkdir()  # so that publishing the new file fails, as after a kill at that moment
    with pytest.raises(IsADirectoryError):
        pack_block(dataclasses.replace(create_job([draw_jpg(0)], name="again"), root=job.root))
    assert not (job.root / BLOCK.outcomes_part).exists()


def test_a_local_picture_is_packed_and_stays_as_it_is(create_job, draw_jpg, tmp_path):
    job = create_job([draw_jpg(0), draw_jpg(1)])
    mine = tmp_path / "mine.jpg"
    mine.write_bytes(draw_jpg(1))
    job.results[1] = (job.results[1][0], mine)
    pack_block(job)
    assert mine.read_bytes() == draw_jpg(1)
    assert [stored(job, entry) for entry in entries(job)] == [draw_jpg(0), draw_jpg(1)]


def select_rows(job: PackJob, rows: list[int]) -> PackJob:
    """Return a job that has new results for these rows of the committed block."""
    results = {row: job.results[row] for row in rows}
    return dataclasses.replace(job, results=results, is_committed=True)


def files(job: PackJob) -> list[bytes]:
    return [(job.root / name).read_bytes() for name in (BLOCK.shard, BLOCK.index_part)]


@pytest.mark.parametrize("encode_format", ["original", "pixels", "jpg"])
def test_a_block_packed_in_several_steps_equals_one_packed_at_once(create_job, draw_jpg, encode_format):
    webp = cv2.imencode(".webp", np.full((20, 30, 3), 99, np.uint8))[1].tobytes()
    bodies = [draw_jpg(0), None, webp, draw_jpg(3), b"<html>", draw_jpg(5), None]
    at_once = create_job(bodies, encode_format, "once")
    pack_block(at_once)
    pieces = create_job(bodies, encode_format, "pieces")
    failed = {row: (outcome(Status.TIMEOUT), None) for row in (0, 3)}
    first = dataclasses.replace(
        pieces, rows=pieces.rows[:4], results={1: pieces.results[1], 2: pieces.results[2]} | failed
    )
    pack_block(first)
    for body_path in pieces.work.glob("2.*"):
        body_path.unlink()  # so that only the stored picture is left
    assert pack_block(select_rows(pieces, [4, 5, 6])) == {Status.NOT_AN_IMAGE: 1, Status.KEPT: 1, Status.GONE: 1}
    assert pack_block(select_rows(pieces, [0, 3])) == {Status.KEPT: 2}
    assert files(pieces) == files(at_once)
    assert outcomes(pieces) == outcomes(at_once)
    assert list((pieces.root / "blocks").glob("*.redo")) == []


def test_a_dropped_picture_leaves_the_files_of_a_block_without_it(create_job, draw_jpg):
    bodies = [draw_jpg(0), draw_jpg(1), draw_jpg(2)]
    without = create_job([bodies[0], None, bodies[2]], name="without")
    pack_block(without)
    job = create_job(bodies)
    pack_block(job)
    dropped = outcome(Status.PLACEHOLDER, sha256="ab", message="the same bytes under 20 URLs")
    without_it = dataclasses.replace(job, results={1: (dropped, None)}, is_committed=True)
    assert pack_block(without_it) == {Status.PLACEHOLDER: 1}
    assert files(job) == files(without)
    assert [(row["status"], row["message"]) for row in outcomes(job)][1] == (
        "placeholder",
        "the same bytes under 20 URLs",
    )


def test_the_tar_is_not_written_if_no_picture_changes(create_job, draw_jpg):
    job = create_job([draw_jpg(0), None])
    pack_block(job)
    before = [(job.root / name).stat() for name in (BLOCK.shard, BLOCK.index_part)]
    pack_block(dataclasses.replace(job, results={1: (outcome(Status.FORBIDDEN), None)}, is_committed=True))
    assert [row["status"] for row in outcomes(job)] == ["kept", "forbidden"]
    after = [(job.root / name).stat() for name in (BLOCK.shard, BLOCK.index_part)]
    assert [(file.st_ino, file.st_mtime_ns) for file in after] == [(file.st_ino, file.st_mtime_ns) for file in before]


def test_a_damaged_tar_is_not_copied(create_job, draw_jpg):
    job = create_job([draw_jpg(0), draw_jpg(1)])
    pack_block(job)
    entry = entries(job)[0]
    with (job.root / BLOCK.shard).open("r+b") as tar:
        tar.seek(entry["offset"] + 50)
        tar.write(b"\xff\x00\xff")
    before = files(job)
    with pytest.raises(ShardsError, match=r"train/00003.tar is damaged at the picture k0; remove the file"):
        pack_block(select_rows(job, [1]))
    assert files(job) == before


BODY = b"some bytes"
CHECKSUMS = {name: hashlib.new(name, BODY).hexdigest() for name in ("sha256", "md5")}


@pytest.mark.parametrize(
    "columns",
    [
        {},
        {"page_url": "http://h/sha256"},
        {"sha256": ""},
        {"sha256": None, "md5": CHECKSUMS["md5"]},
        {"sha256": CHECKSUMS["sha256"].upper()},
        {"md5": f" {CHECKSUMS['md5']} "},
        CHECKSUMS,
    ],
)
def test_a_correct_or_missing_checksum_is_no_mismatch(columns):
    assert find_checksum_mismatch(json.dumps(columns), BODY) is None


@pytest.mark.parametrize("name", ["sha256", "md5"])
@pytest.mark.parametrize("wrong", ["0" * 64, "no hash", 5])
def test_a_wrong_checksum_is_reported_with_the_correct_one(name, wrong):
    mismatch = find_checksum_mismatch(json.dumps(CHECKSUMS | {name: wrong}), BODY)
    assert mismatch == f"its {name} is {CHECKSUMS[name]}, but the list has {wrong}"


def test_a_long_checksum_is_cut_in_the_message():
    assert len(find_checksum_mismatch(json.dumps({"md5": "x" * 10**6}), BODY)) < 300
