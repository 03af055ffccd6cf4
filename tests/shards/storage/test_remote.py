"""A DIR under a URL: its objects are a local DIR's files, whatever was killed, and whichever machine goes on."""

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
from shards.storage import journal
from shards.storage.object_store import ObjectStore
from tests.assembly import serve_pictures, start_assemble, statuses
from tests.loopback import Answer
from tests.stores import client, download, lasting_objects, names_of, objects_of, open_store, s3_server


@pytest.fixture
def pictures(server, draw_jpg, write_list):
    """A list of 40 pictures, of which 4, 8 and 12 are equal and 9 fails until it is healed."""
    rows = serve_pictures(server, draw_jpg, 40)
    for number in (4, 8, 12):
        server.add(f"/{number}.jpg", Answer(draw_jpg(4)))
    server.add("/9.jpg", Answer(status=404))
    return write_list(rows)


SETTINGS = {"rows_per_shard": 5, "attempts": 1}


def local_objects(root: Path, folder: Path) -> dict:
    return lasting_objects(f"file://{root}", folder)


def stages(tmp_path) -> list[Path]:
    """Returns what lies in the stages."""
    return list((tmp_path / "cache").rglob("stage/*"))


@pytest.fixture
def store(request):
    """The URL of each kind of store in turn."""
    return request.getfixturevalue(request.param)


stored = pytest.mark.parametrize("store", ["memory", "bucket"], indirect=True)


@stored
def test_the_objects_are_a_local_dirs_files(server, pictures, run_assemble, tmp_path, store):
    run_assemble(list=pictures, **SETTINGS)
    url = f"{store}/a DIR"
    told = run_assemble(list=pictures, out=Path(url), **SETTINGS)
    assert "for 39 successfully downloaded images" in told
    expected = local_objects(tmp_path / "out", tmp_path / "a")
    assert len([name for name in expected if name.endswith(".tar")]) == 9
    assert lasting_objects(url, tmp_path / "b") == expected
    assert stages(tmp_path) == []
    server.requests.clear()
    told = run_assemble(list=pictures, out=Path(url), **SETTINGS)
    assert f"40 of 40 were done before; resuming in {url}" in told
    assert server.requests == []
    assert lasting_objects(url, tmp_path / "b") == expected


def test_a_file_url_is_the_folder_that_it_names(pictures, run_assemble, tmp_path):
    run_assemble(list=pictures, **SETTINGS)
    run_assemble(list=pictures, out=Path(f"file://{tmp_path}/a folder"), **SETTINGS)
    expected = local_objects(tmp_path / "out", tmp_path / "a")
    assert local_objects(tmp_path / "a folder", tmp_path / "b") == expected
    assert main(["verify", f"file://{tmp_path}/a folder"]) == 0


def test_two_machines_at_once_and_a_merge_on_a_third_make_the_same(pictures, run_assemble, tmp_path, bucket, capsys):
    run_assemble(list=pictures, **SETTINGS, drop_duplicates=True)
    url, flags = f"{bucket}/x", ["--attempts=1", "--drop_duplicates"]
    drivers = [
        start_assemble(pictures, Path(url), f"--partition={index}/2", f"--stage={tmp_path / str(index)}", *flags)
        for index in range(2)
    ]
    said = [driver.communicate(timeout=100) for driver in drivers]
    assert [driver.returncode for driver in drivers] == [0, 0], said
    assert f"python -m shards merge {url}" in said[1][0]
    assert "index.parquet" not in names_of(url)
    for _ in range(2):
        assert main(["merge", url, "--stage", str(tmp_path / "2")]) == 0
        assert lasting_objects(url, tmp_path / "b") == local_objects(tmp_path / "out", tmp_path / "a")
    assert [list((tmp_path / str(index)).iterdir()) for index in range(3)] == [[], [], []]
    capsys.readouterr()


def test_a_merge_says_whose_blocks_are_missing(pictures, run_assemble, memory, capsys):
    url = f"{memory}/x"
    run_assemble(list=pictures, out=Path(url), partition="0/2", **SETTINGS)
    before = objects_of(url)
    assert main(["merge", url]) == 1
    assert capsys.readouterr().out.splitlines() == [
        f"{url}: 4 of 9 blocks are missing; nothing was merged",
        "partition 1/2: 4 missing; run assemble --partition 1/2 to make them",
    ]
    assert objects_of(url) == before


def test_killed_at_random_moments_the_same_command_ends_in_the_same_objects(
    server, draw_jpg, pictures, run_assemble, tmp_path, bucket
):
    settings = {"list": pictures, "drop_duplicates": True} | SETTINGS
    run_assemble(**settings)
    for number in range(0, 40, 3):
        server.add(f"/{number}.jpg", Answer(draw_jpg(4 if number == 12 else number), delay=0.2))
    server.add("/9.jpg", Answer(status=404, delay=0.2))
    server.add("/38.jpg", Answer(draw_jpg(38), after_requests=10**9))  # never answered
    url, draw, hits = f"{bucket}/x", random.Random(4), 0
    flags = ["--attempts=1", "--timeout=60", "--drop_duplicates", "--connections=4"]
    for kill in range(3):
        with start_assemble(pictures, Path(url), *flags) as driver:
            deadline = time.monotonic() + 60
            while driver.poll() is None and sum(name.endswith(".tar") for name in names_of(url)) < 2 * kill + 1:
                assert time.monotonic() < deadline
                time.sleep(0.02)
            time.sleep(draw.uniform(0, 0.2))
            os.kill(driver.pid, signal.SIGKILL)
            driver.communicate(timeout=60)
        hits += driver.returncode == -signal.SIGKILL
    assert hits == 3
    server.add("/38.jpg", Answer(draw_jpg(38)))
    # Another process on another machine goes on: of what the killed one had here it may lack the newest alone.
    run_assemble(**settings, out=Path(url))
    assert lasting_objects(url, tmp_path / "b") == local_objects(tmp_path / "out", tmp_path / "a")
    assert stages(tmp_path) == []


def test_ctrl_c_gives_the_url_back_and_a_second_driver_is_refused_until_then(
    server, draw_jpg, pictures, run_assemble, tmp_path, bucket
):
    url = f"{bucket}/x"
    server.add("/7.jpg", Answer(draw_jpg(7), after_requests=10**9))  # for ever
    with start_assemble(pictures, Path(url), "--attempts=1") as driver:
        deadline = time.monotonic() + 60
        while not any(name.endswith(".outcomes.parquet") for name in names_of(url)):
            assert driver.poll() is None, driver.communicate()
            assert time.monotonic() < deadline
            time.sleep(0.05)
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


def versions_of(url: str) -> dict[str, int]:
    """Returns how often each object was put."""
    name, _, base = url.removeprefix("s3://").partition("/")
    counts: dict[str, int] = {}
    for version in client().list_object_versions(Bucket=name)["Versions"]:
        key = version["Key"].removeprefix(f"{base}/")
        counts[key] = counts.get(key, 0) + 1
    return counts


def test_a_retry_and_growth_on_another_machine_touch_only_their_blocks(
    server, draw_jpg, pictures, run_assemble, tmp_path, bucket
):
    url = f"{bucket}/x"
    client().put_bucket_versioning(Bucket=bucket.removeprefix("s3://"), VersioningConfiguration={"Status": "Enabled"})
    settings = {"list": pictures, "out": Path(url)} | SETTINGS
    run_assemble(**settings, images=32, stage=tmp_path / "one")
    before = versions_of(url)
    server.add("/9.jpg", Answer(draw_jpg(9)))
    server.requests.clear()
    run_assemble(**settings, images=32, retry="failed", stage=tmp_path / "two")
    after_retry = versions_of(url)
    assert [seen.path for seen in server.requests] == ["/9.jpg"]
    assert [name for name, count in after_retry.items() if name.endswith(".tar") and count > before.get(name, 0)] != []
    touched = {name for name, count in after_retry.items() if count != before.get(name) and "redo" not in name}
    assert len({name for name in touched if name.endswith(".tar")}) == 1
    assert len({name for name in touched if name.endswith(".index.parquet")}) == 1
    run_assemble(**settings, stage=tmp_path / "three")
    grown = versions_of(url)
    old = [name for name in after_retry if name.endswith(".tar") and "redo" not in name]
    assert len([name for name in old if grown[name] > after_retry[name]]) <= 2  # each split's last block
    run_assemble(list=pictures, **SETTINGS)
    assert lasting_objects(url, tmp_path / "b") == local_objects(tmp_path / "out", tmp_path / "a")


def test_a_retry_that_brings_nothing_puts_no_tar(server, pictures, run_assemble, bucket):
    url = f"{bucket}/x"
    client().put_bucket_versioning(Bucket=bucket.removeprefix("s3://"), VersioningConfiguration={"Status": "Enabled"})
    run_assemble(list=pictures, out=Path(url), **SETTINGS)
    server.requests.clear()
    run_assemble(list=pictures, out=Path(url), retry="failed", **SETTINGS)
    assert len(server.requests) == 1
    assert {count for name, count in versions_of(url).items() if name.endswith(".tar")} == {1}


def tars_of(objects) -> dict[str, bytes]:
    return {name: content for name, content in objects.items() if name.endswith(".tar") and "redo" not in name}


class Killed(BaseException):
    """Ends a process in the midst of something."""


@pytest.fixture
def judged(pictures, run_assemble, tmp_path, memory):
    """A URL whose equal pictures have been kept and are to be dropped now, and what its objects become."""
    settings = {"list": pictures} | SETTINGS
    run_assemble(**settings, out=Path(f"{memory}/x"))
    run_assemble(**settings, drop_duplicates=True)
    rules = json.dumps({"placeholder_urls": 20, "drop_duplicates": True})
    fs, base = open_store(f"{memory}/x")
    fs.pipe_file(f"{base}/blocks/rules.json", rules.encode())
    return f"{memory}/x", local_objects(tmp_path / "out", tmp_path / "a")


def test_killed_before_any_step_of_a_replacement_no_picture_is_lost(judged, tmp_path, monkeypatch, capsys):
    url, expected = judged
    fs, base = open_store(url)
    before = objects_of(url)
    steps = {name: getattr(ObjectStore, name) for name in ("write", "put", "copy", "remove")}
    for moment in range(1000):
        fs.rm(base, recursive=True)
        for name, content in before.items():
            fs.pipe_file(f"{base}/{name}", content)
        calls = iter(range(moment))

        def stop_at_last(self, *arguments, step, calls=calls, **keywords):
            if next(calls, None) is None:
                raise Killed
            return steps[step](self, *arguments, **keywords)

        with monkeypatch.context() as patched:
            for step in steps:
                patched.setattr(ObjectStore, step, functools.partialmethod(stop_at_last, step=step))
            try:
                main(["finalize", url])
                break
            except Killed:
                pass
        now = objects_of(url)
        assert tars_of(before).keys() == tars_of(now).keys()
        if "index.parquet" in now:  # then it speaks of just these tars
            whole = before if now["index.parquet"] == before["index.parquet"] else expected
            assert tars_of(now) == tars_of(whole), moment
        assert main(["finalize", url]) == 0
        assert lasting_objects(url, tmp_path / "b") == expected, moment
    assert moment > 20
    assert lasting_objects(url, tmp_path / "b") == expected
    capsys.readouterr()


def test_another_partitions_replacement_is_left_to_it(judged, run_assemble, pictures):
    url, _ = judged
    fs, base = open_store(url)
    redo = f"blocks/train-00001.0123{journal.REDO_SUFFIX}/shard.tar"  # the fourth of all blocks
    fs.pipe_file(f"{base}/{redo}", b"half")
    run_assemble(list=pictures, out=Path(url), partition="0/2", **SETTINGS)
    assert redo in objects_of(url)
    run_assemble(list=pictures, out=Path(url), partition="1/2", **SETTINGS)
    assert redo not in objects_of(url)


@pytest.mark.parametrize("lost", ["train/00002.tar", "blocks/train-00002.index.parquet"])
def test_a_lost_object_has_its_block_made_again(server, pictures, run_assemble, tmp_path, memory, lost):
    url = f"{memory}/x"
    run_assemble(list=pictures, out=Path(url), **SETTINGS)
    before = lasting_objects(url, tmp_path / "a")
    fs, base = open_store(url)
    fs.rm_file(f"{base}/{lost}")
    server.requests.clear()
    run_assemble(list=pictures, out=Path(url), **SETTINGS)
    assert len(server.requests) == 5
    assert lasting_objects(url, tmp_path / "b") == before


@contextlib.contextmanager
def killed_before(monkeypatch, name):
    """Has a command end as it is about to put an object."""
    real = ObjectStore.put

    def put(self, path, target):
        if target == name:
            raise Killed
        real(self, path, target)

    monkeypatch.setattr(ObjectStore, "put", put)
    with pytest.raises(Killed):
        yield
    monkeypatch.setattr(ObjectStore, "put", real)


def test_a_block_that_lost_its_tar_is_not_committed_while_it_is_put(
    server, draw_jpg, pictures, run_assemble, memory, monkeypatch
):
    url = f"{memory}/x"
    run_assemble(list=pictures, out=Path(url), **SETTINGS)
    fs, base = open_store(url)
    fs.rm_file(f"{base}/train/00002.tar")
    for number in range(40):  # the web is another by now
        server.add(f"/{number}.jpg", Answer(draw_jpg(100 + number)))
    with killed_before(monkeypatch, "blocks/train-00002.index.parquet"):
        run_assemble(list=pictures, out=Path(url), **SETTINGS)
    assert "train/00002.tar" in names_of(url)
    assert not {"blocks/train-00002.outcomes.parquet", "index.parquet"} & names_of(url)
    run_assemble(list=pictures, out=Path(url), **SETTINGS)
    assert main(["verify", url]) == 0


def test_the_index_stays_while_new_blocks_are_added(server, draw_jpg, write_list, run_assemble, memory, monkeypatch):
    url, rows = f"{memory}/x", serve_pictures(server, draw_jpg, 40)
    settings = {"out": Path(url), "rows_per_shard": 4}
    run_assemble(list=write_list(rows[:20]), **settings)
    before = objects_of(url)["index.parquet"]
    with killed_before(monkeypatch, "blocks/train-00006.outcomes.parquet"):
        run_assemble(list=write_list(rows), **settings)
    assert objects_of(url)["index.parquet"] == before
    run_assemble(list=write_list(rows), **settings)
    assert objects_of(url)["index.parquet"] != before
    assert main(["verify", url]) == 0


def test_a_stage_of_another_row_order_is_emptied(pictures, run_assemble, tmp_path, memory, monkeypatch):
    url = f"{memory}/x"
    with killed_before(monkeypatch, "blocks/train-00003.index.parquet"):
        run_assemble(list=pictures, out=Path(url), **SETTINGS)
    fs, base = open_store(url)
    fs.rm(base, recursive=True)  # and begun anew
    run_assemble(list=pictures, out=Path(url), seed=5, **SETTINGS)
    run_assemble(list=pictures, seed=5, **SETTINGS)
    assert lasting_objects(url, tmp_path / "b") == local_objects(tmp_path / "out", tmp_path / "a")


def test_blocks_that_had_not_gone_up_yet_go_up_without_the_web(
    server, pictures, run_assemble, tmp_path, memory, monkeypatch
):
    url = f"{memory}/x"
    with killed_before(monkeypatch, "blocks/train-00003.index.parquet"):
        run_assemble(list=pictures, out=Path(url), **SETTINGS)
    assert "blocks/train-00003.outcomes.parquet" not in objects_of(url)
    waiting = [path.name for path in (tmp_path / "cache").rglob("00003.tar")]
    assert waiting == ["00003.tar"]
    committed = sum(name.endswith(".outcomes.parquet") for name in objects_of(url))
    server.requests.clear()
    run_assemble(list=pictures, out=Path(url), **SETTINGS)
    assert len(server.requests) <= 40 - 5 * (committed + 1)
    run_assemble(list=pictures, **SETTINGS)
    assert lasting_objects(url, tmp_path / "b") == local_objects(tmp_path / "out", tmp_path / "a")


@pytest.mark.usefixtures("bucket")
def test_a_server_that_goes_away_is_one_line_and_nothing_that_was_made_is_lost(
    server, pictures, run_assemble, tmp_path, monkeypatch
):
    monkeypatch.setattr("shards.storage.object_store._RETRY_DELAYS", (0.1,))
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    settings, real = {"list": pictures, "out": Path("s3://going/x")} | SETTINGS, ObjectStore.put
    with contextlib.ExitStack() as running, monkeypatch.context() as patched:
        endpoint = running.enter_context(s3_server())
        monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
        client().create_bucket(Bucket="going")

        def put(self, path, name):
            if name == "blocks/train-00003.index.parquet":
                running.close()
            real(self, path, name)

        patched.setattr(ObjectStore, "put", put)
        with pytest.raises(ShardsError, match=r"^s3://going/x fails \(.*; what is there stays, and the same command"):
            run_assemble(**settings)
    server.requests.clear()
    with s3_server(int(endpoint.rpartition(":")[2])):
        run_assemble(**settings)
        run_assemble(list=pictures, **SETTINGS)
        asked = {seen.path for seen in server.requests}
        assert lasting_objects("s3://going/x", tmp_path / "b") == local_objects(tmp_path / "out", tmp_path / "a")
    assert len(asked) == 40
    assert len(server.requests) <= 80 - 5  # that block's pictures, at least, weren't asked for again


def test_a_kept_stage_is_a_dir_and_goes_on_as_one(server, draw_jpg, pictures, run_assemble, tmp_path, memory, capsys):
    url, base = f"{memory}/x", tmp_path / "stages"
    settings = {"list": pictures, "out": Path(url), "stage": base} | SETTINGS
    run_assemble(**settings, keep_stage=True)
    (stage,) = base.iterdir()
    (stage / "mean.npy").write_bytes(b"one's own")
    assert main(["verify", str(stage)]) == 0
    server.add("/9.jpg", Answer(draw_jpg(9)))
    run_assemble(**settings | {"stage": tmp_path / "other"}, retry="failed")  # by another machine
    run_assemble(**settings, keep_stage=True)
    assert len(list(stage.glob("*/*.tar"))) == 8  # the ninth is another by now
    assert (stage / "mean.npy").exists()
    assert main(["merge", url, "--stage", str(base)]) == 0
    assert len(list(stage.glob("*/*.tar"))) == 8
    assert statuses(download(url, tmp_path / "copy"))[9] == "kept"
    run_assemble(**settings)
    assert not list(base.iterdir())
    capsys.readouterr()
