import contextlib
import gzip
import re
import resource
import shlex
import subprocess
import sys

import numpy as np
import psutil
import pytest

from shards.commands import build_parser, run_command
from tests.loopback import Answer


def test_assemble_finalize_and_mean(server, draw_jpg, write_list, tmp_path, capsys):
    url = server.add("/a.jpg", Answer(draw_jpg(0)))
    path = write_list([{"image_url": url, "label": 0, "split": "train"}])
    out = str(tmp_path / "out")
    assert run_command("assemble", ["--list", path, "--out", out, "--workers", "1"]) == 0
    lines = capsys.readouterr().out.splitlines()
    training = f"--data.shards {out} --run_dir RUN --model.arch resnet50 --weights DEFAULT"
    assert lines == [
        "Downloading 1 image with 1 worker...",
        "Writing train/val for 1 successfully downloaded images.",
        f"warning: {path}: all pictures are in the split train; to train without tests, give --data.test.split ''",
        f"To see what it holds, run: shards report {out}",
        f"To train on it, run: stylefinetune train {training}",
    ]
    assert run_command("finalize", [out]) == 0
    assert "1 of 1 row" in capsys.readouterr().out
    assert run_command("mean", [out, "--image_size", "30"]) == 0
    assert "mean of 1 picture" in capsys.readouterr().out
    assert np.load(tmp_path / "out" / "mean.npy").shape == (30, 30, 3)


def test_the_next_command_names_a_folder_in_an_object_store_by_its_url(server, draw_jpg, write_list, memory, capsys):
    path = write_list([{"image_url": server.add("/a.jpg", Answer(draw_jpg(0))), "label": 0, "split": "train"}])
    assert run_command("assemble", ["--list", path, "--out", f"{memory}/a DIR", "--workers", "1"]) == 0
    printed = capsys.readouterr().out
    assert f"To train on it, run: stylefinetune train --data.shards '{memory}/a DIR' --run_dir RUN" in printed
    assert "shards report" not in printed  # which reads a folder only


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["assemble", "--out", "x"], "--list"),
        (["assemble", "--list", "nosuch.csv", "--out", "{tmp}/out"], "nosuch.csv"),
        (["assemble", "--list", "nosuch.csv", "--out", "{tmp}/out", "--imags", "3"], "--imags"),
        (["assemble", "--list", "{tmp}/list.csv", "--out", "{tmp}/list.csv"], "list.csv"),
        (["finalize", "{tmp}/nothing"], "shards assemble"),
        (["mean", "{tmp}/nothing"], "shards assemble"),
        (["mean"], "DIR"),
        (["mean", "{tmp}/nothing", "--image_size", "big"], "image_size: Expected an int. Got value: big"),
        (["mean", "{tmp}/nothing", "--image_sizes", "3"], "unknown flag --image_sizes 3; did you mean --image_size?"),
        (["verify", "{tmp}/nothing", "--stag", "x"], "unknown flag --stag x; did you mean --stage?"),
        (["assemble", "--lis", "a", "--list", "b", "--out", "{tmp}/o"], "unknown flag --lis a; did you mean --list?"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(tmp_path, capsys, arguments, part):
    (tmp_path / "list.csv").write_text("image_url,label\nhttp://127.0.0.1:1/a,0\n")
    command, *rest = [argument.replace("{tmp}", str(tmp_path)) for argument in arguments]
    assert run_command(command, rest) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert part in error
    assert error.count("\n") == 1
    assert not (tmp_path / "nothing").exists()


@pytest.mark.parametrize("kind", ["urls", "local"])
def test_a_list_of_which_nothing_was_kept_is_exit_code_1_with_the_reason(server, write_list, tmp_path, capsys, kind):
    urls = [server.add(f"/{number}.jpg", Answer(status=404)) for number in range(3)]
    (tmp_path / "train.txt").write_text(f"{tmp_path}/1.jpg 0\n{tmp_path}/2.jpg 1\n")
    rows = [{"image_url": url, "label": 0} for url in urls]
    path = write_list(rows) if kind == "urls" else f"train={tmp_path}/train.txt"
    out = tmp_path / "out"
    wanted = {
        "urls": f"error: {out} has no picture: none of the 3 rows was kept (3 not_found; for example {server.url}/",
        "local": f"error: {out} has no picture: none of the 2 rows was kept (2 missing_file; for example {tmp_path}/",
    }[kind]
    for more in ([], [], ["--retry=failed"]):  # also of a command that has nothing to do
        assert run_command("assemble", [f"--list={path}", f"--out={out}", "--workers=1", *more]) == 1
        printed = capsys.readouterr()
        expected = "Packed 0 of " if kind == "local" else "train/val for 0 successfully downloaded images."
        assert expected in printed.out
        assert printed.err.splitlines()[-1].startswith(wanted)


def test_a_command_that_adds_nothing_to_pictures_is_exit_code_0(server, draw_jpg, write_list, tmp_path, capsys):
    rows = [{"image_url": server.add("/a.jpg", Answer(draw_jpg(0))), "label": 0}]
    rows.append({"image_url": server.add("/b.jpg", Answer(status=404)), "label": 0})
    for listed in (rows[:1], rows, rows):
        command = [f"--list={write_list(listed)}", f"--out={tmp_path}/out", "--workers=1", "--retry=failed"]
        assert run_command("assemble", command) == 0
    assert capsys.readouterr().err == ""


def test_partitions_without_pictures_are_reported_when_they_are_merged(server, write_list, tmp_path, capsys):
    rows = [{"image_url": server.add(f"/{number}.jpg", Answer(status=404)), "label": 0} for number in range(3)]
    path, out = write_list(rows), tmp_path / "out"
    for partition in ("0/2", "1/2"):
        command = [f"--list={path}", f"--out={out}", "--workers=1", "--test_share=0", f"--partition={partition}"]
        assert run_command("assemble", command) == 0
    assert run_command("merge", [str(out)]) == 1
    assert capsys.readouterr().err.startswith(f"error: {out} has no picture: none of the 3 rows was kept")


@contextlib.contextmanager
def limited_memory(size):
    """Let this process allocate at most `size` more bytes."""
    limits = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (psutil.Process().memory_info().vms + size, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, limits)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux limits the memory of a process")
def test_out_of_memory_is_one_line(server, draw_jpg, write_list, tmp_path, capsys):
    path = write_list([{"image_url": server.add("/a.jpg", Answer(draw_jpg(0))), "label": 0, "split": "train"}])
    out = str(tmp_path / "out")
    assert run_command("assemble", [f"--list={path}", f"--out={out}"]) == 0
    with limited_memory(100 << 20):  # a sum of 4096x4096 pixels takes four times as much
        assert run_command("mean", [out, "--image_size=4096"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: out of memory (")
    assert error.count("\n") == 1


@pytest.mark.parametrize("command", ["assemble", "finalize", "index", "merge", "mean", "repack", "report", "verify"])
def test_every_command_has_help_with_a_valid_example_in_80_columns(command, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit) as caught:
        run_command(command, ["--help"])
    assert caught.value.code == 0
    text = capsys.readouterr().out
    assert text.startswith(f"usage: shards {command} ")
    assert max(map(len, text.splitlines())) <= 80
    assert re.findall("<class|type:|null\\)|default:\\s+(?:True|False|\\()", text) == []
    example = text.splitlines()[-1].removeprefix(f"Example: shards {command} ")
    build_parser(command).parse_args(shlex.split(example))


@pytest.mark.parametrize("command", ["assemble", "finalize", "merge", "report", "verify"])
def test_the_help_of_a_command_imports_no_large_library(command):
    program = (
        "import contextlib, sys\n"
        "from shards.commands import run_command\n"
        f"with contextlib.suppress(SystemExit): run_command({command!r}, ['--help'])\n"
        "print(sorted({'numpy', 'pyarrow', 'cv2', 'jinja2', 'requests'} & {*sys.modules}))\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.endswith("[]\n")
    assert f"usage: shards {command}" in done.stdout


def test_a_small_file_with_a_large_list_is_refused_before_it_fills_the_disk(tmp_path, capsys):
    path = tmp_path / "list.csv.gz"
    path.write_bytes(gzip.compress(b"image_url,label\n" + b"http://h/a.jpg,0\n" * 200_000))
    flags = [f"--list={path}", f"--out={tmp_path / 'out'}", "--max_list_bytes=1000000"]
    assert run_command("assemble", flags) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "has more than 1,000,000 bytes when it is decompressed" in error
