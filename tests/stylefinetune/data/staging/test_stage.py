import json
import re
import shutil
import signal
import socket
from pathlib import Path

import pytest
import torch
from rich.filesize import decimal

from shards.format.index import ShardIndex
from stylefinetune.config.cli import parse_config
from stylefinetune.config.data import DataConfig
from stylefinetune.data.staging import stage as staging
from stylefinetune.data.staging.stage import stage_folder, stage_shards
from stylefinetune.distributed.heartbeat import STARTING
from stylefinetune.distributed.world import World
from stylefinetune.errors import Stopped, UserError
from tests.programs import NARROW, metrics, python, train_on

PROGRAM = """
import sys
from pathlib import Path
from shards.format.index import ShardIndex
from stylefinetune.errors import UserError
from stylefinetune.data.staging.stage import stage_shards
from stylefinetune.distributed.world import World

root, local, broken, outputs = map(Path, sys.argv[1:])
world, index, results = World.join(), ShardIndex.load(root), []
for folder in (local, broken if world.rank == 1 else local):
    try:
        stage_shards(index, index.table["shard"].to_pylist(), folder, world)
        results.append("done")
    except UserError as error:
        results.append(str(error))
Path(outputs, str(world.rank)).write_text("; then ".join(results))
world.shutdown()
"""


def alone():
    return World(rank=0, size=1, device=torch.device("cpu"))


def shards_of(index):
    return index.table["shard"].to_pylist()


def test_each_index_has_a_separate_folder_and_none_without_stage_dir(pixel_shards, original_shards):
    config = DataConfig(stage_dir="/local")
    one, other = (stage_folder(ShardIndex.load(root), config) for root in (pixel_shards, original_shards))
    assert one.parent == other.parent == Path("/local")
    assert one != other
    assert stage_folder(ShardIndex.load(pixel_shards), DataConfig()) is None


def test_one_line_on_the_console_reports_the_copy(pixel_shards, tmp_path, capsys):
    index, world = ShardIndex.load(pixel_shards), alone()
    for result in (r"copied in [\d.]+ s: \d+\.\d kB", "already copied"):
        stage_shards(index, shards_of(index), tmp_path / "stage", world)
        assert re.fullmatch(rf"shards in {tmp_path}/stage {result}\n", capsys.readouterr().err)
    assert world.heartbeat.state.activity == STARTING  # has no time limit


def test_a_run_stopped_while_copying_keeps_the_complete_shards(pixel_shards, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(staging, "ROUND_SECONDS", 0.0)
    monkeypatch.setattr(staging, "LINE_INTERVAL", 0.0)
    index, folder = ShardIndex.load(pixel_shards), tmp_path / "stage"
    with pytest.raises(
        Stopped, match="stopped by SIGTERM while copying the shards; run the same command again to continue"
    ):
        stage_shards(
            index, shards_of(index), folder, alone(), lambda: signal.SIGTERM if list(folder.rglob("*.tar")) else None
        )
    kept = [
        path.read_bytes() == (pixel_shards / path.relative_to(folder)).read_bytes() for path in folder.rglob("*.tar")
    ]
    assert kept == [True]
    assert list(folder.rglob("*.part")) == []
    assert re.search(rf"copying the shards to {folder}: [\d.]+ (bytes|kB) of [\d.]+ kB\n", capsys.readouterr().err)


def test_one_process_per_node_copies_and_all_ranks_report_a_failure_with_the_host_name(pixel_shards, tmp_path):
    """Three ranks share a disk; then the disk of one of them, as on another node, can't be used."""
    local, broken, outputs, program = (tmp_path / name for name in ("local", "file", "outputs", "program.py"))
    program.write_text(PROGRAM)
    broken.write_text("")
    outputs.mkdir()
    done = python(program, pixel_shards, local, broken / "stage", outputs, ranks=3)
    assert done.returncode == 0, done.stderr
    line = f"{socket.gethostname()}: {broken}/stage: Not a directory; see data.stage_dir"
    assert [(outputs / str(rank)).read_text() for rank in range(3)] == [f"done; then {line}"] * 3
    size = sum(path.stat().st_size for path in local.rglob("*.tar"))
    assert size == sum(path.stat().st_size for path in pixel_shards.rglob("*.tar"))
    assert f"shards in {local} copied in " in done.stderr
    assert done.stderr.count(f": {decimal(size)}\n") == 1  # not three times that


FATAL = """
import os, signal, sys, time
from stylefinetune.data.staging import shard_copier
from stylefinetune.errors import run_command
from stylefinetune.train import main

def die_after_the_first_shard(folder):
    if len(list(folder.parent.rglob("*.tar"))) == 1:
        time.sleep(1.5)  # until this rank has published a heartbeat
        os.kill(os.getpid(), signal.SIGKILL)

shard_copier.sync_path = die_after_the_first_shard
sys.exit(run_command(main, sys.argv[1:]))
"""


def test_a_killed_copier_is_reported_by_the_other_rank_and_a_second_start_copies_the_rest(pixel_shards, tmp_path):
    """The other rank gets the lock and continues until the next synchronization."""
    program, run_dir, local = (tmp_path / name for name in ("program.py", "run", "local"))
    program.write_text(FATAL)
    flags = [*NARROW, f"--data.shards={pixel_shards}", f"--run_dir={run_dir}", f"--data.stage_dir={local}"]
    assert -signal.SIGKILL in python(program, *flags, ranks=2).returncodes
    complete = {path: path.stat().st_ino for path in local.rglob("*.tar")}
    assert complete
    record = json.loads((run_dir / "exit.json").read_text())
    assert record["code"] == 5
    message = rf"rank [01] on {socket.gethostname()} has died while copying the shards at iteration 0"
    assert re.fullmatch(message, record["message"])
    done = train_on(2, *flags, "--train.max_iter=2", "--train.test_interval=0")
    assert done.returncode == 0, done.stderr
    copies = {path: path.stat().st_ino for path in local.rglob("*.tar")}
    assert complete.items() <= copies.items()
    assert len(copies) == 4


@pytest.fixture
def corrupted(original_shards, tmp_path):
    """A DIR with one corrupt picture, and the line that reports it."""
    shards = shutil.copytree(original_shards, tmp_path / "DIR")
    entries = ShardIndex.load(shards).entries("train")
    with (shards / entries.shard[5]).open("r+b") as tar:
        tar.seek(int(entries.offset[5]))
        tar.write(b"\0" * int(entries.length[5]))
    return shards, f"{shards / entries.shard[5]}: {entries.key[5]} is corrupt and skipped (1 of 41 pictures)"


def test_training_on_two_ranks_is_bitwise_equal_with_and_without_copies(corrupted, tmp_path):
    """A corrupt picture is skipped; the message names the original shard."""
    shards, line = corrupted
    flags = [*NARROW, f"--data.shards={shards}", "--data.shuffle=true", "--data.max_corrupt=0.1", "--data.workers=1"]
    flags += ["--train.max_iter=8", "--train.display=1", "--train.test_interval=4"]
    for name, more in (("in place", []), ("staged", [f"--data.stage_dir={tmp_path / 'local'}"])):
        done = train_on(2, *flags, *more, f"--run_dir={tmp_path / name}")
        assert done.returncode == 0, done.stderr
        assert done.stderr.count(line) == 1
    assert f"shards in {tmp_path / 'local'}" in done.stderr
    for phase in ("train", "test"):
        in_place, staged = (
            [(e["iteration"], e["loss"]) for e in metrics(tmp_path / name, phase)] for name in ("in place", "staged")
        )
        assert in_place == staged
    in_place, staged = (tmp_path / name / "checkpoints" / "iter_8" for name in ("in place", "staged"))
    assert (in_place / "model.safetensors").read_bytes() == (staged / "model.safetensors").read_bytes()


def test_an_unusable_disk_is_one_line_and_exit_code_2(pixel_shards, tmp_path):
    (tmp_path / "file").write_text("")
    flags = [*NARROW, f"--data.shards={pixel_shards}", f"--data.stage_dir={tmp_path / 'file'}"]
    done = train_on(2, *flags, f"--run_dir={tmp_path / 'run'}")
    folder = stage_folder(ShardIndex.load(pixel_shards), parse_config(flags).data)
    line = f"{socket.gethostname()}: {folder}: Not a directory; see data.stage_dir"
    assert [printed for printed in done.stderr.splitlines() if printed.startswith("error:")] == [f"error: {line}"]
    record = json.loads((tmp_path / "run" / "exit.json").read_text())
    assert (record["code"], record["reason"], record["message"]) == (2, "user error", line)
    assert not (tmp_path / "run" / "train.log").exists()
    with pytest.raises(UserError, match="Not a directory"):
        stage_shards(ShardIndex.load(pixel_shards), ["train/00000.tar"], folder, alone())
