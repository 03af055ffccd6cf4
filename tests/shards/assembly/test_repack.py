import io
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from rich.console import Console

from shards.__main__ import main
from shards.assembly.assemble import assemble
from shards.assembly.repack import RepackConfig, repack
from shards.config.schema import AssembleConfig
from shards.errors import ShardsError
from shards.format import images
from shards.format.index import ShardIndex
from shards.storage.shard_dir import Block
from shards.storage.snapshot import Snapshot
from shards.verify.verify import verify
from tests.assembly import stable_outcomes
from tests.loopback import Answer, LoopbackServer

ROOT = Path(__file__).parents[3]
PICTURES = [0, 0, 2, *range(3, 20)]  # rows 0 and 1 have the same picture


@pytest.fixture(scope="module")
def crawled(draw_jpg, tmp_path_factory):
    """20 rows assembled as originals, pixels and jpg; two are not found and one is no picture."""
    folder = tmp_path_factory.mktemp("crawled")
    lines = ["id,image_url,label,split"]
    with LoopbackServer() as server:
        for number, picture in enumerate(PICTURES):
            answer = Answer(b"<html>") if number == 7 else Answer(draw_jpg(picture, 60 + picture, 90))
            url = server.add(f"/{number}.jpg", answer) if number not in {5, 13} else f"{server.url}/gone.jpg"
            lines.append(f"p{number},{url},{number % 3},{'train' if number % 5 else 'test'}")
        (folder / "list.csv").write_text("\n".join(lines))
        for encode_format in ("original", "pixels", "jpg"):
            settings = {"encode_format": encode_format, "image_size": 24, "rows_per_shard": 4, "workers": 2}
            config = AssembleConfig(list=str(folder / "list.csv"), out=folder / encode_format, **settings)
            assemble(config, Console(file=io.StringIO()))
    return folder


def run_repack(source: Path, out: Path, **settings) -> str:
    text = io.StringIO()
    settings = {"encode_format": "pixels", "image_size": 24, "workers": 2} | settings
    repack(RepackConfig(source, out=out, **settings), Console(file=text, width=200))
    return text.getvalue()


def contents(root: Path) -> dict[str, bytes]:
    """Return the contents of all files of a DIR except the outcomes, which contain times."""
    files = {path.relative_to(root).as_posix(): path for path in root.rglob("*") if path.is_file()}
    return {name: path.read_bytes() for name, path in files.items() if "outcomes" not in name}


def outcomes(root: Path) -> list[dict]:
    return pq.read_table(root / "outcomes.parquet").to_pylist()


def is_valid(root: Path) -> bool:
    return verify(Snapshot(root), Console(file=io.StringIO())).differences == []


@pytest.mark.parametrize("encode_format", ["pixels", "jpg"])
def test_repacked_originals_equal_an_assembly(crawled, tmp_path, capsys, encode_format):
    out = tmp_path / "new"
    arguments = ["repack", str(crawled / "original"), "--out", str(out), "--encode_format", encode_format]
    assert main([*arguments, "--image_size", "24", "--workers", "2"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "Repacking 5 of 5 blocks with 2 workers...",
        f"{out}: 17 pictures as {encode_format}",
    ]
    assert contents(out) == contents(crawled / encode_format)
    assert outcomes(out) == outcomes(crawled / "original")
    assert stable_outcomes(out) == stable_outcomes(crawled / encode_format)
    assert is_valid(out)
    assert not (out / ".work").exists()


def test_by_default_the_new_folder_is_next_to_the_originals(crawled, tmp_path, capsys, monkeypatch):
    shutil.copytree(crawled / "original", tmp_path / "a DIR")
    monkeypatch.chdir(tmp_path / "a DIR")
    assert main(["repack", ".", "--encode_format=pixels", "--image_size=24", "--workers=2"]) == 0
    out = tmp_path / "a DIR-pixels"
    assert capsys.readouterr().out.splitlines()[-1] == f"{out}: 17 pictures as pixels"
    assert contents(out) == contents(crawled / "pixels")


def test_repacking_again_skips_all_blocks(crawled, tmp_path):
    run_repack(crawled / "original", tmp_path / "new")
    before = contents(tmp_path / "new")
    assert run_repack(crawled / "original", tmp_path / "new").startswith("Repacking 0 of 5 blocks")
    assert contents(tmp_path / "new") == before


def test_missing_and_changed_blocks_are_packed_again(crawled, tmp_path):
    source, out = tmp_path / "source", tmp_path / "new"
    shutil.copytree(crawled / "original", source)
    part = source / Block("train", 1).outcomes_part
    table = pq.read_table(part)
    earlier = table.to_pylist()
    earlier[0]["message"] = "the message before a retry"
    pq.write_table(table.from_pylist(earlier, table.schema), part)
    run_repack(source, out)
    pq.write_table(table, part)
    (out / "train" / "00002.tar").unlink()
    assert run_repack(source, out).startswith("Repacking 2 of 5 blocks")
    assert contents(out) == contents(crawled / "pixels")
    assert outcomes(out) == outcomes(source)


def test_the_complete_blocks_of_an_unfinished_folder_are_repacked(crawled, tmp_path):
    source, out = tmp_path / "source", tmp_path / "new"
    shutil.copytree(crawled / "original", source)
    lost = (source / Block("test", 0).outcomes_part).read_bytes()
    (source / Block("test", 0).outcomes_part).unlink()
    printed = run_repack(source, out)
    assert printed.splitlines()[0].startswith("Repacking 4 of 5 blocks")
    assert printed.splitlines()[-1].startswith(f"{source} still lacks 1 block; once ")
    assert len(ShardIndex.load(out).entries("train")) == 14
    (source / Block("test", 0).outcomes_part).write_bytes(lost)
    run_repack(source, out)
    assert contents(out) == contents(crawled / "pixels")


def test_a_grown_list_is_repacked(server, draw_jpg, write_list, run_assemble, tmp_path):
    rows = [
        {"image_url": server.add(f"/{number}.jpg", Answer(draw_jpg(number))), "label": number % 3, "split": "train"}
        for number in range(14)
    ]
    settings = {"image_size": 24, "rows_per_shard": 4}
    for count in (10, 14):
        run_assemble(list=write_list(rows[:count]), out=tmp_path / "original", **settings)
        run_repack(tmp_path / "original", tmp_path / "new")
        run_assemble(list=write_list(rows[:count]), out=tmp_path / "pixels", encode_format="pixels", **settings)
        assert contents(tmp_path / "new") == contents(tmp_path / "pixels")
        assert is_valid(tmp_path / "new")


def test_placeholders_and_duplicates_stay_dropped(server, draw_jpg, write_list, run_assemble, tmp_path):
    rows = [
        {"image_url": server.add(f"/{number}.jpg", Answer(draw_jpg(number % 7 % 4))), "label": 0, "split": "train"}
        for number in range(9)
    ]
    settings = {"image_size": 24, "rows_per_shard": 4, "placeholder_urls": 3, "drop_duplicates": True}
    for encode_format in ("original", "pixels"):
        run_assemble(list=write_list(rows), out=tmp_path / encode_format, encode_format=encode_format, **settings)
    run_repack(tmp_path / "original", tmp_path / "new")
    assert contents(tmp_path / "new") == contents(tmp_path / "pixels")
    assert outcomes(tmp_path / "new") == outcomes(tmp_path / "original")
    assert {row["status"] for row in outcomes(tmp_path / "new")} == {"kept", "duplicate", "placeholder"}


def test_a_killed_repack_is_resumed(crawled, tmp_path):
    out = tmp_path / "new"
    command = [sys.executable, "-m", "shards", "repack", str(crawled / "original"), f"--out={out}"]
    command += ["--encode_format=pixels", "--image_size=24", "--workers=1"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as driver:
        deadline = time.monotonic() + 60
        while not list(out.glob("blocks/*.outcomes.parquet")) and time.monotonic() < deadline:
            time.sleep(0.002)
        os.kill(driver.pid, signal.SIGKILL)
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert contents(out) == contents(crawled / "pixels")
    assert is_valid(out)


def test_damaged_originals_are_an_error(crawled, tmp_path):
    source = tmp_path / "source"
    shutil.copytree(crawled / "original", source)
    entry = pq.read_table(source / "index.parquet").to_pylist()[0]
    tar = bytearray((source / entry["shard"]).read_bytes())
    tar[entry["offset"] + 40] ^= 1
    (source / entry["shard"]).write_bytes(tar)
    with pytest.raises(ShardsError, match=f"damaged at the picture {entry['key']}"):
        run_repack(source, tmp_path / "new")


def test_different_index_and_outcomes_parts_are_an_error(crawled, tmp_path):
    source = tmp_path / "source"
    shutil.copytree(crawled / "original", source)
    part = source / Block("train", 0).outcomes_part
    table = pq.read_table(part)
    pq.write_table(table.from_pylist([row | {"status": "gone"} for row in table.to_pylist()], table.schema), part)
    with pytest.raises(ShardsError, match=r"differ at p.* shards verify"):
        run_repack(source, tmp_path / "new")


@pytest.mark.parametrize(
    ("source", "out", "flags", "reason"),
    [
        ("pixels", "new", [], "has pixels of 24 pixels a side, not originals"),
        ("original", "original", [], "is the folder of the originals"),
        ("original", "jpg", [], "was made from encode_format jpg, not pixels"),
        ("original", "pixels", ["--image_size", "25"], "was made from image_size 24, not 25"),
        ("original", "new", ["--image_size", "0"], "image_size is 0"),
        ("original", "new", ["--workers", "0"], "workers is 0"),
        ("nothing", "new", [], "not a shard directory"),
    ],
)
def test_invalid_arguments_are_one_line_and_change_nothing(crawled, tmp_path, capsys, source, out, flags, reason):
    shutil.copytree(crawled, tmp_path, dirs_exist_ok=True)
    before = contents(tmp_path)
    arguments = ["repack", str(tmp_path / source), "--out", str(tmp_path / out), "--encode_format", "pixels"]
    assert main([*arguments, "--image_size", "24", *flags]) == 2
    error = capsys.readouterr().err
    assert reason in error
    assert error.count("\n") == 1
    assert contents(tmp_path) == before


def test_pixels_are_the_originals_decoded_and_resized(crawled, tmp_path):
    run_repack(crawled / "original", tmp_path / "new", image_size=32)
    found, originals = ShardIndex.load(tmp_path / "new"), ShardIndex.load(crawled / "original")
    for entry, original in zip(found.table.to_pylist(), originals.table.to_pylist(), strict=True):
        body = (crawled / "original" / original["shard"]).read_bytes()[original["offset"] :][: original["length"]]
        stored = (tmp_path / "new" / entry["shard"]).read_bytes()[entry["offset"] :][: entry["length"]]
        np.testing.assert_array_equal(
            images.read_member(stored, "npy"), images.resize_picture(images.decode_picture(body), 32)
        )
