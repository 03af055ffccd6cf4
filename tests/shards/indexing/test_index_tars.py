import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from rich.console import Console

from shards.__main__ import main
from shards.format.index import ShardIndex
from shards.format.tar import members_of, read_pictures
from shards.indexing import index_tars as module
from shards.indexing.config import IndexConfig
from shards.indexing.index_tars import index_tars
from tests.assembly import outcomes_by_row
from tests.programs import ROOT


@pytest.fixture
def tars(write_tar, draw_jpg, tmp_path):
    """Three tars of 6 samples, one with a truncated picture, in a folder."""
    for tar in range(3):
        samples = {}
        for number in range(6):
            body = draw_jpg(10 * tar + number)
            if (tar, number) == (1, 2):
                body = body[:500]
            columns = {"url": f"http://h{number}.org/{tar}.jpg", "owner": f"o{number}"}
            samples[f"{tar}{number:08d}"] = {"jpg": body, "cls": str(number % 3), "json": columns, "txt": "a text"}
        write_tar(f"tars/{tar:05d}.tar", samples)
    return tmp_path / "tars"


def run(*arguments):
    return main(["index", *map(str, arguments), "--workers", "1"])


def index_bytes(root):
    return (root / "index.parquet").read_bytes()


def test_the_tars_stay_where_they_are_and_every_command_works_on_the_index(tars, tmp_path, capsys):
    before = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in tars.iterdir()}
    root = tmp_path / "out"
    assert run(f"{tars}/*.tar", "--out", root) == 0
    index = ShardIndex.load(root)
    assert index.metadata.classes == ("0", "1", "2")
    assert sum(len(index.entries(split)) for split in index.splits) == 17
    outcomes = outcomes_by_row(root)
    assert [outcomes[row]["status"] for row in (7, 8, 9)] == ["kept", "corrupt", "kept"]
    assert outcomes[8]["image_url"] == "http://h2.org/1.jpg"
    assert not (root / "scans").exists()
    assert main(["verify", str(root)]) == 0
    assert main(["report", str(root)]) == 0
    assert "h5.org" in capsys.readouterr().out
    assert main(["mean", str(root)]) == 0
    assert main(["repack", str(root), "--encode_format", "pixels", "--image_size", "32", "--workers", "1"]) == 0
    assert main(["verify", f"{root}-pixels"]) == 0
    assert main(["finalize", str(root)]) == 0
    assert {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in tars.iterdir()} == before


def test_a_moved_index_still_finds_the_tars(tars, tmp_path):
    assert run(tars, "--out", tmp_path / "out") == 0
    moved = (tmp_path / "out").rename(tmp_path / "elsewhere")
    table = pq.read_table(moved / "index.parquet")
    assert len(list(read_pictures(moved, members_of(table)))) == 17


def test_a_second_command_does_nothing_and_changed_tars_are_indexed_again(tars, tmp_path, write_tar, draw_jpg, capsys):
    root = tmp_path / "out"
    assert run(tars, "--out", root) == 0
    before = index_bytes(root)
    capsys.readouterr()
    assert run(tars, "--out", root) == 0
    assert capsys.readouterr().out == f"{root} has the index of these 3 tars\n"
    (root / "index.parquet").unlink()
    assert run(tars, "--out", root) == 0
    assert index_bytes(root) == before
    write_tar("tars/00003.tar", {"new": {"jpg": draw_jpg(99), "cls": "2"}})
    assert run(tars, "--out", root) == 0
    assert len(pq.read_table(root / "index.parquet")) == 18
    (tars / "00003.tar").unlink()
    assert run(tars, "--out", root) == 0
    assert index_bytes(root) == before
    assert not list(root.glob("*/00003.tar"))
    assert main(["verify", str(root)]) == 0


def test_verify_reports_a_picture_that_has_changed(tars, tmp_path, capsys):
    root = tmp_path / "out"
    assert run(tars, "--out", root) == 0
    row = pq.read_table(root / "index.parquet").to_pylist()[0]
    with (root / row["shard"]).open("r+b") as file:
        file.seek(row["offset"] + 300)
        file.write(b"\0\0\0\0")
    (tars / "00002.tar").unlink()
    assert main(["verify", str(root)]) == 1
    printed = capsys.readouterr().out
    assert f"{row['shard']}, {row['key']}: sha256" in printed
    assert "00002.tar" in printed


def test_other_folders_are_refused_in_one_line(tars, tmp_path, write_list, run_assemble, capsys, draw_jpg):
    (tmp_path / "a.jpg").write_bytes(draw_jpg(0))
    path = write_list([{"image_url": "a.jpg", "label": 0}])
    run_assemble(list=path, local=True)
    assert run(tars, "--out", tmp_path / "out") == 2
    assert "out was made by assemble; use another --out" in capsys.readouterr().err
    (tmp_path / "x" / "train").mkdir(parents=True)
    shutil.copy(tars / "00000.tar", tmp_path / "x" / "train" / "00000.tar")
    assert run(tars, "--out", tmp_path / "x", "--split", "train") == 2
    assert "is a file where links to the tars would be" in capsys.readouterr().err
    assert run(tars, "--out", tmp_path / "y") == 0
    capsys.readouterr()
    assert main(["assemble", "--list", path, "--local", "--out", str(tmp_path / "y")]) == 2
    assert "y was made from existing tars by the index command; use another --out" in capsys.readouterr().err


def test_the_index_may_be_made_beside_the_tars(tars):
    for _ in range(2):
        assert run(tars, "--out", tars) == 0
        assert main(["verify", str(tars)]) == 0
    moved = tars.rename(tars.with_name("moved"))
    assert main(["verify", str(moved)]) == 0  # the links are relative


@pytest.mark.parametrize(
    ("step", "calls"),
    [
        ("join_scans", 1),
        ("unpublish_file", 2),
        ("_link", 2),
        ("create_shard_dir", 1),
        ("_write_parts", 3),
        ("finalize", 1),
    ],
)
def test_a_command_that_was_stopped_anywhere_is_completed_by_the_next(step, calls, tars, tmp_path, monkeypatch):
    root, whole = tmp_path / "out", tmp_path / "whole"
    assert run(tars, "--out", whole) == 0
    assert run(f"{tars}/0000[01].tar", "--out", root) == 0
    real, left = getattr(module, step), [calls]

    def stop(*arguments, **settings):
        left[0] -= 1
        if not left[0]:
            raise KeyboardInterrupt
        return real(*arguments, **settings)

    monkeypatch.setattr(module, step, stop)
    assert run(tars, "--out", root) == 130
    monkeypatch.undo()
    if (root / "index.parquet").exists():  # then it is still the old one with the old links
        assert len(list(read_pictures(root, members_of(pq.read_table(root / "index.parquet"))))) == 11
    assert run(tars, "--out", root) == 0
    assert index_bytes(root) == index_bytes(whole)
    assert main(["verify", str(root)]) == 0


def test_a_killed_command_leaves_no_damage(tars, tmp_path):
    root, whole = tmp_path / "out", tmp_path / "whole"
    assert run(tars, "--out", whole) == 0
    command = [sys.executable, "-m", "shards", "index", str(tars), "--out", str(root), "--workers", "1"]
    with subprocess.Popen(command, cwd=ROOT, start_new_session=True, stdout=subprocess.DEVNULL) as process:
        deadline = time.monotonic() + 60
        while process.poll() is None and not list(root.glob("scans/*.parquet")):
            assert time.monotonic() < deadline
            time.sleep(0.001)
        os.killpg(process.pid, signal.SIGKILL)
    assert run(tars, "--out", root) == 0
    assert index_bytes(root) == index_bytes(whole)
    assert main(["verify", str(root)]) == 0


def test_without_a_usable_picture_the_command_fails(write_tar, tmp_path):
    path = write_tar("a.tar", {"a": {"jpg": b"no picture", "cls": "0"}})
    reason = index_tars(IndexConfig((str(path),), tmp_path / "out", workers=1), Console(quiet=True))
    assert reason == f"{tmp_path}/out has no picture: none of the 1 samples was kept"


def test_a_mistake_is_one_line_with_exit_code_2(tars, tmp_path, capsys):
    for arguments, message in [
        ([tars, "--out", tmp_path / "o", "--label_key", "style"], "has no label style in its JSON"),
        ([tars, "--out", "s3://b/x"], "a folder is needed here, not a URL"),
        ([tars], "--out is required"),
        (["--out", tmp_path / "o"], "tars"),
        ([tars, "--out", tmp_path / "o", "--label_from", "xml"], "label_from"),
    ]:
        assert run(*arguments) == 2
        printed = capsys.readouterr().err
        assert message in printed
        assert printed.count("\n") == 1
    assert not Path("s3:").exists()
