"""A DIR under a URL whose process is killed or interrupted, or whose server fails: nothing is lost, and it resumes."""

import contextlib
import functools
import json
import os
import random
import signal
import time
from pathlib import Path

import pytest

from shards.__main__ import main
from shards.errors import ShardsError
from shards.object_store import ObjectStore
from tests.assembly import serve_pictures, start_assemble
from tests.loopback import Answer
from tests.stores import client, lasting_objects, local_objects, names_of, objects_of, open_store, s3_server

SETTINGS = {"rows_per_shard": 5, "attempts": 1}
NEVER = 10**9  # requests after which a picture is sent


def wait_for_objects(url: str, suffix: str, count: int, driver) -> None:
    """Wait until the URL has so many objects with a suffix."""
    deadline = time.monotonic() + 60
    while sum(name.endswith(suffix) for name in names_of(url)) < count:
        assert driver.poll() is None, driver.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_killed_at_random_moments_the_same_command_gives_the_same_objects(
    server, draw_jpg, pictures, run_assemble, tmp_path, bucket
):
    settings = {"list": pictures, "drop_duplicates": True} | SETTINGS
    run_assemble(**settings)
    for number in range(0, 25, 3):
        server.add(f"/{number}.jpg", Answer(draw_jpg(4 if number == 12 else number), delay=0.1))
    server.add("/9.jpg", Answer(status=404, delay=0.1))
    server.add("/23.jpg", Answer(draw_jpg(23), after_requests=NEVER))
    url, draw = f"{bucket}/x", random.Random(4)
    flags = ["--attempts=1", "--timeout=60", "--drop_duplicates", "--connections=4"]
    for kill in range(3):
        with start_assemble(pictures, Path(url), *flags) as driver:
            wait_for_objects(url, ".tar", kill + 1, driver)
            time.sleep(draw.uniform(0, 0.2))
            os.kill(driver.pid, signal.SIGKILL)
            driver.communicate(timeout=60)
        assert driver.returncode == -signal.SIGKILL
    server.add("/23.jpg", Answer(draw_jpg(23)))
    # A process on another machine resumes. It may lack the newest block of the killed one's stage.
    run_assemble(**settings, out=Path(url))
    assert lasting_objects(url, tmp_path / "b") == local_objects(tmp_path / "out", tmp_path / "a")
    assert list((tmp_path / "cache").rglob("stage/*")) == []


def test_ctrl_c_releases_the_url_and_a_second_process_is_refused_until_then(
    server, draw_jpg, pictures, run_assemble, tmp_path, bucket
):
    url = f"{bucket}/x"
    server.add("/7.jpg", Answer(draw_jpg(7), after_requests=NEVER))
    with start_assemble(pictures, Path(url), "--attempts=1") as driver:
        wait_for_objects(url, ".outcomes.parquet", 1, driver)
        with pytest.raises(ShardsError, match=f"^{url} is in use by process {driver.pid} on "):
            run_assemble(list=pictures, out=Path(url), stage=tmp_path / "other", **SETTINGS)
        os.killpg(driver.pid, signal.SIGINT)
        _, error = driver.communicate(timeout=60)
    assert driver.returncode == 130, error
    assert error.startswith("stopped; run the same command to continue")
    assert error.count("\n") == 1
    assert not any(name.startswith(".work/") for name in names_of(url))
    server.add("/7.jpg", Answer(draw_jpg(7)))
    run_assemble(list=pictures, out=Path(url), **SETTINGS)
    assert main(["verify", url]) == 0


def tars_of(objects) -> dict[str, bytes]:
    return {name: content for name, content in objects.items() if name.endswith(".tar") and "redo" not in name}


class Killed(BaseException):
    """Ends a process in the middle of an operation."""


@pytest.fixture
def with_duplicates(pictures, run_assemble, tmp_path, memory):
    """A URL with duplicates that `finalize` must drop, and the objects that it must result in."""
    settings = {"list": pictures} | SETTINGS
    run_assemble(**settings, out=Path(f"{memory}/x"))
    run_assemble(**settings, drop_duplicates=True)
    rules = json.dumps({"placeholder_urls": 20, "drop_duplicates": True})
    fs, base = open_store(f"{memory}/x")
    fs.pipe_file(f"{base}/blocks/rules.json", rules.encode())
    return f"{memory}/x", local_objects(tmp_path / "out", tmp_path / "a")


def test_killed_before_any_step_of_a_replacement_no_picture_is_lost(with_duplicates, tmp_path, monkeypatch, capsys):
    url, expected = with_duplicates
    fs, base = open_store(url)
    before = objects_of(url)
    methods = {name: getattr(ObjectStore, name) for name in ("write", "put", "copy", "remove")}
    for step in range(1000):
        fs.rm(base, recursive=True)
        for name, content in before.items():
            fs.pipe_file(f"{base}/{name}", content)
        calls = iter(range(step))

        def stop_at_last(self, *arguments, method, calls=calls, **keywords):
            if next(calls, None) is None:
                raise Killed
            return methods[method](self, *arguments, **keywords)

        with monkeypatch.context() as patched:
            for method in methods:
                patched.setattr(ObjectStore, method, functools.partialmethod(stop_at_last, method=method))
            try:
                main(["finalize", url])
                break
            except Killed:
                pass
        now = objects_of(url)
        assert tars_of(before).keys() == tars_of(now).keys()
        if "index.parquet" in now:  # then it is the index of these tars
            consistent = before if now["index.parquet"] == before["index.parquet"] else expected
            assert tars_of(now) == tars_of(consistent), step
        assert main(["finalize", url]) == 0
        assert lasting_objects(url, tmp_path / "b") == expected, step
    assert step > 20
    assert lasting_objects(url, tmp_path / "b") == expected
    capsys.readouterr()


@contextlib.contextmanager
def killed_before(monkeypatch, name):
    """End a command before it uploads an object."""
    put = ObjectStore.put

    def put_or_end(self, path, target):
        if target == name:
            raise Killed
        put(self, path, target)

    monkeypatch.setattr(ObjectStore, "put", put_or_end)
    with pytest.raises(Killed):
        yield
    monkeypatch.setattr(ObjectStore, "put", put)


def test_a_block_that_lost_its_tar_is_not_committed_while_it_is_uploaded(
    server, draw_jpg, pictures, run_assemble, memory, monkeypatch
):
    url = f"{memory}/x"
    run_assemble(list=pictures, out=Path(url), **SETTINGS)
    fs, base = open_store(url)
    fs.rm_file(f"{base}/train/00002.tar")
    for number in range(25):  # the web has other pictures now
        server.add(f"/{number}.jpg", Answer(draw_jpg(100 + number)))
    with killed_before(monkeypatch, "blocks/train-00002.index.parquet"):
        run_assemble(list=pictures, out=Path(url), **SETTINGS)
    assert "train/00002.tar" in names_of(url)
    assert not {"blocks/train-00002.outcomes.parquet", "index.parquet"} & names_of(url)
    run_assemble(list=pictures, out=Path(url), **SETTINGS)
    assert main(["verify", url]) == 0


def test_the_index_stays_while_new_blocks_are_added(server, draw_jpg, write_list, run_assemble, memory, monkeypatch):
    url, rows = f"{memory}/x", serve_pictures(server, draw_jpg, 20)
    settings = {"out": Path(url), "rows_per_shard": 4}
    run_assemble(list=write_list(rows[:10]), **settings)
    before = objects_of(url)["index.parquet"]
    with killed_before(monkeypatch, "blocks/train-00003.outcomes.parquet"):
        run_assemble(list=write_list(rows), **settings)
    assert objects_of(url)["index.parquet"] == before
    run_assemble(list=write_list(rows), **settings)
    assert objects_of(url)["index.parquet"] != before
    assert main(["verify", url]) == 0


def test_a_stage_with_another_row_order_is_cleared(pictures, run_assemble, tmp_path, memory, monkeypatch):
    url = f"{memory}/x"
    with killed_before(monkeypatch, "blocks/train-00003.index.parquet"):
        run_assemble(list=pictures, out=Path(url), **SETTINGS)
    fs, base = open_store(url)
    fs.rm(base, recursive=True)  # the user starts over
    run_assemble(list=pictures, out=Path(url), seed=5, **SETTINGS)
    run_assemble(list=pictures, seed=5, **SETTINGS)
    assert lasting_objects(url, tmp_path / "b") == local_objects(tmp_path / "out", tmp_path / "a")


def test_committed_blocks_are_uploaded_later_without_another_download(
    server, pictures, run_assemble, tmp_path, memory, monkeypatch
):
    url = f"{memory}/x"
    with killed_before(monkeypatch, "blocks/train-00003.index.parquet"):
        run_assemble(list=pictures, out=Path(url), **SETTINGS)
    assert "blocks/train-00003.outcomes.parquet" not in objects_of(url)
    assert len(list((tmp_path / "cache").rglob("00003.tar"))) == 1
    committed = sum(name.endswith(".outcomes.parquet") for name in objects_of(url))
    server.requests.clear()
    run_assemble(list=pictures, out=Path(url), **SETTINGS)
    assert len(server.requests) <= 25 - 5 * (committed + 1)
    run_assemble(list=pictures, **SETTINGS)
    assert lasting_objects(url, tmp_path / "b") == local_objects(tmp_path / "out", tmp_path / "a")


@pytest.mark.usefixtures("bucket")
def test_a_server_that_goes_away_is_a_one_line_error_and_nothing_is_lost(
    server, pictures, run_assemble, tmp_path, monkeypatch
):
    monkeypatch.setattr("shards.object_store._RETRY_DELAYS", (0.1,))
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    settings, put = {"list": pictures, "out": Path("s3://going/x")} | SETTINGS, ObjectStore.put
    with contextlib.ExitStack() as running, monkeypatch.context() as patched:
        endpoint = running.enter_context(s3_server())
        monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
        client().create_bucket(Bucket="going")

        def put_or_close(self, path, name):
            if name == "blocks/train-00003.index.parquet":
                running.close()
            put(self, path, name)

        patched.setattr(ObjectStore, "put", put_or_close)
        with pytest.raises(
            ShardsError, match=r"^s3://going/x fails \(.*; uploaded blocks are kept; run the same command"
        ):
            run_assemble(**settings)
    server.requests.clear()
    with s3_server(int(endpoint.rpartition(":")[2])):
        run_assemble(**settings)
        run_assemble(list=pictures, **SETTINGS)
        paths = [request.path for request in server.requests]
        assert lasting_objects("s3://going/x", tmp_path / "b") == local_objects(tmp_path / "out", tmp_path / "a")
    assert len(set(paths)) == 25
    assert len(paths) <= 50 - 5  # at least that block's pictures weren't downloaded again
