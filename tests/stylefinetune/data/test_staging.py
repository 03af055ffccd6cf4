import json
import re
import shutil
import signal
import socket
import sys
from pathlib import Path

import pytest
import torch
from rich.filesize import decimal

from shards.format.index import ShardIndex
from stylefinetune.config.cli import parse_config
from stylefinetune.config.data import DataConfig
from stylefinetune.data import staging
from stylefinetune.data.staging import stage_folder, stage_shards
from stylefinetune.distributed.heartbeat import STARTING
from stylefinetune.distributed.world import World
from stylefinetune.errors import Stopped, UserError
from tests.programs import NARROW, metrics, run, torchrun

PROGRAM = """
import sys
from pathlib import Path
from shards.format.index import ShardIndex
from stylefinetune.errors import UserError
from stylefinetune.data.staging import stage_shards
from stylefinetune.distributed.world import World

root, local, broken, ends = map(Path, sys.argv[1:])
world, index, told = World.join(), ShardIndex.load(root), []
for folder in (local, broken if world.rank == 1 else local):
    try:
        stage_shards(index, index.table["shard"].to_pylist(), folder, world)
        told.append("done")
    except UserError as error:
        told.append(str(error))
Path(ends, str(world.rank)).write_text("; then ".join(told))
world.shutdown()
"""


def alone():
    return World(rank=0, size=1, device=torch.device("cpu"))


def shards_of(index):
    return index.table["shard"].to_pylist()


def test_the_folder_is_the_indexs_own_and_there_is_none_unless_asked_for(pixel_shards, original_shards):
    config = DataConfig(stage_dir="/local")
    one, other = (stage_folder(ShardIndex.load(root), config) for root in (pixel_shards, original_shards))
    assert one.parent == other.parent == Path("/local")
    assert one != other
    assert stage_folder(ShardIndex.load(pixel_shards), DataConfig()) is None


def test_the_console_tells_in_a_line_what_was_copied(pixel_shards, tmp_path, capsys):
    index, world = ShardIndex.load(pixel_shards), alone()
    for told in (r"copied in [\d.]+ s: \d+\.\d kB", "there already"):
        stage_shards(index, shards_of(index), tmp_path / "stage", world)
        assert re.fullmatch(rf"shards in {tmp_path}/stage {told}\n", capsys.readouterr().err)
    assert world.heartbeat.state.activity == STARTING  # which may last


def test_a_run_that_is_asked_to_stop_keeps_the_shards_that_are_whole(pixel_shards, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(staging, "ROUND", 0.0)
    monkeypatch.setattr(staging, "LINE_INTERVAL", 0.0)
    index, whole = ShardIndex.load(pixel_shards), tmp_path / "stage"
    with pytest.raises(Stopped, match="stopped by SIGTERM while copying the shards; the same command goes on"):
        stage_shards(
            index, shards_of(index), whole, alone(), lambda: signal.SIGTERM if list(whole.rglob("*.tar")) else None
        )
    kept = [path.read_bytes() == (pixel_shards / path.relative_to(whole)).read_bytes() for path in whole.rglob("*.tar")]
    assert kept == [True]
    assert list(whole.rglob("*.part")) == []
    assert re.search(rf"copying the shards to {whole}: [\d.]+ (bytes|kB) of [\d.]+ kB\n", capsys.readouterr().err)


def test_one_process_of_a_node_copies_and_what_fails_on_one_node_is_told_by_all_with_its_name(pixel_shards, tmp_path):
    """Three ranks share a disk; then one of them, as on another node, has a disk that can't be used."""
    local, broken, ends, program = (tmp_path / name for name in ("local", "file", "ends", "program.py"))
    program.write_text(PROGRAM)
    broken.write_text("")
    ends.mkdir()
    launcher = ["-m", "torch.distributed.run", "--nproc_per_node=3", "--rdzv_backend=c10d"]
    where = ["--rdzv_endpoint=127.0.0.1:0", program, pixel_shards, local, broken / "stage", ends]
    done = run(sys.executable, *launcher, *where, env={"OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr
    line = f"{socket.gethostname()}: {broken}/stage: Not a directory; see data.stage_dir"
    assert [(ends / str(rank)).read_text() for rank in range(3)] == [f"done; then {line}"] * 3
    size = sum(path.stat().st_size for path in local.rglob("*.tar"))
    assert size == sum(path.stat().st_size for path in pixel_shards.rglob("*.tar"))
    assert f"shards in {local} copied in " in done.stderr
    assert done.stderr.count(f": {decimal(size)}\n") == 1  # and not three times as much


FATAL = """
import os, signal, sys, time
from stylefinetune import copying
from stylefinetune.errors import run_command
from stylefinetune.train import main

def die_after_the_first(folder):
    if len(list(folder.parent.rglob("*.tar"))) == 1:
        time.sleep(1.5)  # until the other ranks have been told what this one does
        os.kill(os.getpid(), signal.SIGKILL)

copying.sync = die_after_the_first
sys.exit(run_command(main, sys.argv[1:]))
"""


def test_a_copier_that_is_killed_is_named_by_the_other_rank_and_a_second_start_copies_the_rest(pixel_shards, tmp_path):
    """The other rank gets the lock and goes on until the ranks meet."""
    program, run_dir, local = (tmp_path / name for name in ("program.py", "run", "local"))
    program.write_text(FATAL)
    flags = [*NARROW, f"--data.shards={pixel_shards}", f"--run_dir={run_dir}", f"--data.stage_dir={local}"]
    launcher = ["-m", "torch.distributed.run", "--nproc_per_node=2", "--rdzv_backend=c10d"]
    where = ["--rdzv_endpoint=127.0.0.1:0", program, *flags]
    assert run(sys.executable, *launcher, *where, env={"OMP_NUM_THREADS": "1"}).returncode == 1
    whole = {path: path.stat().st_ino for path in local.rglob("*.tar")}
    assert whole
    ending = json.loads((run_dir / "exit.json").read_text())
    assert ending["code"] == 5
    lost = rf"rank [01] on {socket.gethostname()} has died while copying the shards at iteration 0"
    assert re.fullmatch(lost, ending["message"])
    done = torchrun(2, *flags, "--train.max_iter=2", "--train.test_interval=0")
    assert done.returncode == 0, done.stderr
    copies = {path: path.stat().st_ino for path in local.rglob("*.tar")}
    assert whole.items() <= copies.items()
    assert len(copies) == 4


@pytest.fixture
def spoiled(original_shards, tmp_path):
    """A DIR with a picture in it that is none any more."""
    shards = shutil.copytree(original_shards, tmp_path / "DIR")
    entries = ShardIndex.load(shards).entries("train")
    with (shards / entries.shard[5]).open("r+b") as tar:
        tar.seek(int(entries.offset[5]))
        tar.write(b"\0" * int(entries.length[5]))
    return shards, f"{shards / entries.shard[5]}: {entries.key[5]} is corrupt and left out (1 of 41 pictures)"


def test_two_ranks_do_the_same_to_the_bit_with_copies_and_without(spoiled, tmp_path):
    """A corrupt picture is left out, and named where it lies at its source."""
    shards, named = spoiled
    same = [*NARROW, f"--data.shards={shards}", "--data.shuffle=true", "--data.max_corrupt=0.1", "--data.workers=1"]
    same += ["--train.max_iter=8", "--train.display=1", "--train.test_interval=4"]
    for name, more in (("in place", []), ("staged", [f"--data.stage_dir={tmp_path / 'local'}"])):
        done = torchrun(2, *same, *more, f"--run_dir={tmp_path / name}")
        assert done.returncode == 0, done.stderr
        assert done.stderr.count(named) == 1
    assert f"shards in {tmp_path / 'local'}" in done.stderr
    for phase in ("train", "test"):
        place, staged = (
            [(e["iteration"], e["loss"]) for e in metrics(tmp_path / name, phase)] for name in ("in place", "staged")
        )
        assert place == staged
    place, staged = (tmp_path / name / "checkpoints" / "iter_8" for name in ("in place", "staged"))
    assert (place / "model.safetensors").read_bytes() == (staged / "model.safetensors").read_bytes()


def test_a_disk_that_cannot_be_used_is_one_line_and_exit_code_2(pixel_shards, tmp_path):
    (tmp_path / "file").write_text("")
    flags = [*NARROW, f"--data.shards={pixel_shards}", f"--data.stage_dir={tmp_path / 'file'}"]
    done = torchrun(2, *flags, f"--run_dir={tmp_path / 'run'}")
    folder = stage_folder(ShardIndex.load(pixel_shards), parse_config(flags).data)
    line = f"{socket.gethostname()}: {folder}: Not a directory; see data.stage_dir"
    assert [told for told in done.stderr.splitlines() if told.startswith("error:")] == [f"error: {line}"]
    ending = json.loads((tmp_path / "run" / "exit.json").read_text())
    assert (ending["code"], ending["reason"], ending["message"]) == (2, "user error", line)
    assert not (tmp_path / "run" / "train.log").exists()
    with pytest.raises(UserError, match="Not a directory"):
        stage_shards(ShardIndex.load(pixel_shards), ["train/00000.tar"], folder, alone())
