import re
import subprocess
import sys
from pathlib import Path

import pytest

from shards.config.schema import AssembleConfig
from shards.download import body_slots
from shards.download.body_slots import BodySlots
from shards.download.downloader import Downloader
from shards.download.host_queue import Request
from shards.format.outcomes import Status
from tests.loopback import Answer
from tests.programs import ROOT


@pytest.fixture(params=["memory", "files"])
def in_memory_or_files(request, monkeypatch):
    if request.param == "files":
        monkeypatch.setattr(body_slots, "_has_files_in_memory", lambda: False)
    elif not body_slots._has_files_in_memory():
        pytest.skip("this system has no files in memory")


@pytest.fixture
def slots(in_memory_or_files, tmp_path):  # noqa: ARG001 -- it decides which slots are created
    slots = BodySlots(2, tmp_path / "slots")
    yield slots
    slots.close()


def write(slots: BodySlots, slot: int, body: bytes) -> None:
    """Write a body as aria2 does: in a process that inherits the files, through the file's name."""
    path = slots.folder / slots.name(slot)
    subprocess.run(["sh", "-c", f"cat > {path}"], input=body, pass_fds=slots.inherited, check=True)


def test_bodies_are_appended_to_the_file_of_their_block(slots, tmp_path):
    first, second = slots.take(), slots.take()
    write(slots, first, b"a" * 100_000)
    write(slots, second, b"")
    stored = [slots.store(second, tmp_path / "bodies"), slots.store(first, tmp_path / "bodies")]
    third = slots.take()
    write(slots, third, b"bc")
    stored.append(slots.store(third, tmp_path / "bodies"))
    assert [body.read_bytes() for body in stored] == [b"", b"a" * 100_000, b"bc"]


def test_a_slot_is_empty_when_it_is_taken_again(slots, tmp_path):
    for finish in (slots.empty, lambda slot: slots.store(slot, tmp_path / "bodies")):
        slot = slots.take()
        write(slots, slot, b"rest")
        finish(slot)
        assert slots.take() == slot
        assert slots.store(slot, tmp_path / "bodies").length == 0


def test_no_file_has_a_name_and_none_stays_open(tmp_path):
    if not body_slots._has_files_in_memory():
        pytest.skip("this system has no files in memory")
    before = len(list(Path("/proc/self/fd").iterdir()))
    slots = BodySlots(50, tmp_path / "slots")
    assert list(tmp_path.iterdir()) == []
    slots.close()
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def create_with_limit(soft: int, hard: int, count: int) -> subprocess.CompletedProcess[str]:
    """Create slots in a process that may open so many files."""
    code = (
        "import resource; from pathlib import Path; from shards.download.body_slots import BodySlots\n"
        f"resource.setrlimit(resource.RLIMIT_NOFILE, ({soft}, {hard})); BodySlots({count}, Path('slots'))"
    )
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env={"PYTHONPATH": str(ROOT)}, check=False
    )


def test_the_limit_on_open_files_is_raised_if_it_may_be(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert create_with_limit(64, 600, 80).returncode == 0
    refused = create_with_limit(64, 64, 80).stderr.splitlines()[-1]
    assert re.search("ShardsError: connections is 80: .*; lower it, or allow more open files with ulimit -n", refused)


@pytest.mark.usefixtures("in_memory_or_files")
def test_aria2_downloads_into_the_slots(server, tmp_path):
    """Few slots for many bodies, with and without a length, and attempts that fail within the body."""
    bodies = [bytes([number]) * (number * 997 % 70_000) for number in range(40)]
    urls = []
    for number, body in enumerate(bodies):
        answers = [Answer(body, transfer=("chunked" if number % 3 == 0 else "complete"))]
        if number % 5 == 1:
            answers.insert(0, Answer(b"x" * 80_000, transfer="truncated"))
        urls.append(server.add(f"/{number}.jpg", *answers))
    config = AssembleConfig(list="x", out=tmp_path, attempts=2, connections=3, per_host=3)
    found = {}
    with Downloader(config, tmp_path) as downloader:
        downloader.add(Request(row, url, tmp_path / f"bodies{row % 2}") for row, url in enumerate(urls))
        while downloader.is_busy:
            for one in downloader.poll(0.05):
                assert one.outcome.status is Status.KEPT, one
                found[one.row] = one.body
    assert {one.path for one in found.values()} == {Path(tmp_path, "bodies0"), Path(tmp_path, "bodies1")}
    assert [found[row].read_bytes() for row in range(40)] == bodies
