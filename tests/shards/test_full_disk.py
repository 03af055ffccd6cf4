"""A disk that is full or read-only is one line, and the same command resumes with more space."""

import contextlib
import re
import subprocess
from pathlib import Path

import pytest

from shards.commands import run_command
from tests.assembly import (
    assert_tidy,
    serve_pictures,
    stable_outcomes,
    start_assemble,
    tars_and_index,
)
from tests.loopback import Answer, LoopbackServer


@contextlib.contextmanager
def mounted(folder: Path, options: str):
    """Mount a separate file system in memory; skip the test if that is not permitted."""
    folder.mkdir(exist_ok=True)
    command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
    if subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("only root may mount a file system")
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def remount(folder: Path, options: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{options}", str(folder)], check=True)


def serve_large(server: LoopbackServer, draw_jpg, count: int, condition=None) -> list[dict]:
    """Serve JPEGs of 50 KiB, padded after their end marker, each once the condition is true."""
    return [
        {
            "image_url": server.add(f"/{i}.jpg", Answer(draw_jpg(i) + bytes(50 * 1024), condition=condition)),
            "label": 0,
            "_split": "train",
        }
        for i in range(count)
    ]


def test_a_full_disk_is_one_line_and_the_same_command_resumes_with_more_space(
    server, draw_jpg, write_list, run_assemble, tmp_path
):
    path = write_list(serve_large(server, draw_jpg, 40))
    uninterrupted, disk = tmp_path / "uninterrupted", tmp_path / "disk"
    run_assemble(list=path, out=uninterrupted, rows_per_shard=5, connections=4)
    out, first = disk / "out", len(server.requests) + 10

    def is_due() -> bool:  # the first 10 answers are enough for a block, which is committed before the disk is full
        return len(server.requests) <= first or any(out.glob("blocks/*.outcomes.parquet"))

    serve_large(server, draw_jpg, 40, is_due)
    with mounted(disk, "size=1500k"):
        with start_assemble(path, out, "--connections=2") as driver:
            _, error = driver.communicate(timeout=60)
        assert driver.returncode == 2
        assert error.startswith("error: ")
        assert error.count("\n") == 1
        assert re.search(r"disk is full|No space left|can't write", error), error
        committed = list(out.glob("blocks/*.outcomes.parquet"))
        assert 0 < len(committed) < 8
        for part in committed:  # committed blocks are complete
            shard = out / "train" / f"{part.name[6:11]}.tar"
            assert shard.read_bytes() == (uninterrupted / "train" / shard.name).read_bytes()
        serve_large(server, draw_jpg, 40)
        server.requests.clear()
        remount(disk, "size=20m")
        run_assemble(list=path, out=out, rows_per_shard=5)
        assert len(server.requests) == 40 - 5 * len(committed)
        assert tars_and_index(out) == tars_and_index(uninterrupted)
        assert stable_outcomes(out) == stable_outcomes(uninterrupted)
        assert_tidy(out)


def test_a_full_disk_while_blocks_are_replaced_loses_no_picture(server, draw_jpg, write_list, run_assemble, tmp_path):
    rows = serve_large(server, draw_jpg, 20)
    server.add("/3.jpg", Answer(status=404))
    path, disk = write_list(rows), tmp_path / "disk"
    settings = {"list": path, "rows_per_shard": 5, "drop_duplicates": True}
    with mounted(disk, "size=20m"):
        out = disk / "out"
        run_assemble(**settings, out=out)
        before = tars_of(out)
        server.add("/3.jpg", Answer(draw_jpg(3) + bytes(50 * 1024)))
        remount(disk, f"size={kilobytes_of(disk) + 150}k")  # no space for a second copy of a block
        with start_assemble(path, out, "--drop_duplicates", "--retry=failed") as driver:
            _, error = driver.communicate(timeout=60)
        assert driver.returncode == 2, error
        assert "disk is full" in error
        assert error.count("\n") == 1
        assert tars_of(out) == before
        remount(disk, "size=20m")
        run_assemble(**settings, out=out, retry="failed")
        run_assemble(**settings, out=tmp_path / "uninterrupted")
        assert tars_and_index(out) == tars_and_index(tmp_path / "uninterrupted")
        assert_tidy(out)


def kilobytes_of(folder: Path) -> int:
    return int(subprocess.run(["du", "-sk", str(folder)], capture_output=True, text=True, check=True).stdout.split()[0])


def tars_of(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in root.glob("*/*.tar")}


@pytest.mark.parametrize("command", ["report", "mean", "finalize", "merge", "repack"])
def test_a_full_or_read_only_disk_is_one_line_of_each_command(draw_jpg, run_assemble, tmp_path, capsys, command):
    (tmp_path / "train.txt").write_text(f"{tmp_path / 'a.jpg'} 0\n")
    (tmp_path / "a.jpg").write_bytes(draw_jpg(0))
    disk, flags = tmp_path / "disk", ["--encode_format", "jpg"] if command == "repack" else []
    with mounted(disk, "size=20m"):
        run_assemble(list=f"train={tmp_path / 'train.txt'}", out=disk / "out")
        capsys.readouterr()
        remount(disk, f"size={kilobytes_of(disk)}k")
        assert run_command(command, [str(disk / "out"), *flags]) == 2
        assert re.fullmatch(r"error: .*the disk is full; free some space and run .*\n", capsys.readouterr().err)
        remount(disk, "size=20m,ro")
        assert run_command(command, [str(disk / "out"), *flags]) == 2
        error = capsys.readouterr().err
        assert re.fullmatch(r"error: .*Read-only file system.*\n", error)
        assert "/." not in error  # the name of a draft


def test_a_read_only_folder_is_one_line(server, draw_jpg, write_list, run_assemble, tmp_path):
    path, disk = write_list(serve_pictures(server, draw_jpg, 10)), tmp_path / "disk"
    with mounted(disk, "size=20m"):
        run_assemble(list=path, out=disk / "out", rows_per_shard=5)
        remount(disk, "ro")
        for out in (disk / "out", disk / "new"):
            with start_assemble(path, out) as driver:
                _, error = driver.communicate(timeout=60)
            assert driver.returncode == 2
            assert "can't be made or written (Read-only file system)" in error
            assert error.count("\n") == 1
