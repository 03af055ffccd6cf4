"""A DIR under a URL: its objects equal the files of a folder, whichever machines wrote them."""

from pathlib import Path

import pytest

from shards.__main__ import main
from shards.storage import journal
from tests.assembly import start_assemble, statuses
from tests.loopback import Answer
from tests.stores import client, download, lasting_objects, local_objects, names_of, objects_of, open_store

SETTINGS = {"rows_per_shard": 5, "attempts": 1}


@pytest.mark.parametrize("store", ["memory", "bucket"])
def test_the_objects_equal_the_files_of_a_folder(server, pictures, run_assemble, tmp_path, store, request):
    url = f"{request.getfixturevalue(store)}/a DIR"
    run_assemble(list=pictures, **SETTINGS)
    output = run_assemble(list=pictures, out=Path(url), **SETTINGS)
    assert "for 24 successfully downloaded images" in output
    expected = local_objects(tmp_path / "out", tmp_path / "a")
    assert len([name for name in expected if name.endswith(".tar")]) == 5
    assert lasting_objects(url, tmp_path / "b") == expected
    assert list((tmp_path / "cache").rglob("stage/*")) == []
    server.requests.clear()
    output = run_assemble(list=pictures, out=Path(url), **SETTINGS)
    assert f"25 of 25 were done before; resuming in {url}" in output
    assert server.requests == []
    assert lasting_objects(url, tmp_path / "b") == expected


def test_a_file_url_is_the_folder_that_it_names(pictures, run_assemble, tmp_path):
    run_assemble(list=pictures, **SETTINGS)
    run_assemble(list=pictures, out=Path(f"file://{tmp_path}/a folder"), **SETTINGS)
    expected = local_objects(tmp_path / "out", tmp_path / "a")
    assert local_objects(tmp_path / "a folder", tmp_path / "b") == expected
    assert main(["verify", f"file://{tmp_path}/a folder"]) == 0


def test_two_machines_at_once_and_a_merge_on_a_third_give_the_same(pictures, run_assemble, tmp_path, bucket, capsys):
    url, flags = f"{bucket}/x", ["--attempts=1", "--drop_duplicates"]
    drivers = [
        start_assemble(pictures, Path(url), f"--partition={index}/2", f"--stage={tmp_path / str(index)}", *flags)
        for index in range(2)
    ]
    run_assemble(list=pictures, **SETTINGS, drop_duplicates=True)
    outputs = [driver.communicate(timeout=100) for driver in drivers]
    assert [driver.returncode for driver in drivers] == [0, 0], outputs
    assert f"shards merge {url}" in outputs[1][0]
    assert "index.parquet" not in names_of(url)
    for _ in range(2):
        assert main(["merge", url, "--stage", str(tmp_path / "2")]) == 0
        assert lasting_objects(url, tmp_path / "b") == local_objects(tmp_path / "out", tmp_path / "a")
    assert [list((tmp_path / str(index)).iterdir()) for index in range(3)] == [[], [], []]
    capsys.readouterr()


def test_a_merge_names_the_partitions_with_missing_blocks(pictures, run_assemble, memory, capsys):
    url = f"{memory}/x"
    run_assemble(list=pictures, out=Path(url), partition="0/2", **SETTINGS)
    before = objects_of(url)
    assert main(["merge", url]) == 1
    assert capsys.readouterr().out.splitlines() == [
        f"{url}: 2 of 5 blocks missing; nothing was merged",
        "partition 1/2: 2 missing; run assemble --partition 1/2 to make them",
    ]
    assert objects_of(url) == before


@pytest.fixture
def versioned(bucket):
    """The URL of a DIR in a bucket that counts how often each object is written."""
    client().put_bucket_versioning(Bucket=bucket.removeprefix("s3://"), VersioningConfiguration={"Status": "Enabled"})
    return f"{bucket}/x"


def versions_of(url: str) -> dict[str, int]:
    """Return how often each object was written."""
    name, _, base = url.removeprefix("s3://").partition("/")
    counts: dict[str, int] = {}
    for version in client().list_object_versions(Bucket=name)["Versions"]:
        key = version["Key"].removeprefix(f"{base}/")
        counts[key] = counts.get(key, 0) + 1
    return counts


def test_a_retry_and_growth_on_another_machine_change_only_their_blocks(
    server, draw_jpg, pictures, run_assemble, tmp_path, versioned
):
    url = versioned
    settings = {"list": pictures, "out": Path(url)} | SETTINGS
    run_assemble(**settings, images=18, stage=tmp_path / "one")
    before = versions_of(url)
    server.add("/9.jpg", Answer(draw_jpg(9)))
    server.requests.clear()
    run_assemble(**settings, images=18, retry="failed", stage=tmp_path / "two")
    after_retry = versions_of(url)
    assert [request.path for request in server.requests] == ["/9.jpg"]
    assert [name for name, count in after_retry.items() if name.endswith(".tar") and count > before.get(name, 0)] != []
    changed = {name for name, count in after_retry.items() if count != before.get(name) and "redo" not in name}
    assert len({name for name in changed if name.endswith(".tar")}) == 1
    assert len({name for name in changed if name.endswith(".index.parquet")}) == 1
    run_assemble(**settings, stage=tmp_path / "three")
    grown = versions_of(url)
    old = [name for name in after_retry if name.endswith(".tar") and "redo" not in name]
    assert len(old) > 3
    assert len([name for name in old if grown[name] > after_retry[name]]) <= 2  # each split's last block
    run_assemble(list=pictures, **SETTINGS)
    assert lasting_objects(url, tmp_path / "b") == local_objects(tmp_path / "out", tmp_path / "a")


def test_a_retry_that_fails_again_uploads_no_tar(server, pictures, run_assemble, versioned):
    run_assemble(list=pictures, out=Path(versioned), **SETTINGS)
    server.requests.clear()
    run_assemble(list=pictures, out=Path(versioned), retry="failed", **SETTINGS)
    assert len(server.requests) == 1
    assert {count for name, count in versions_of(versioned).items() if name.endswith(".tar")} == {1}


def test_the_replacements_of_another_partition_are_left_alone(run_assemble, pictures, memory):
    url = f"{memory}/x"
    run_assemble(list=pictures, out=Path(url), **SETTINGS)
    fs, base = open_store(url)
    redo = f"blocks/train-00002.0123{journal.REDO_SUFFIX}/shard.tar"  # the fourth of all blocks
    fs.pipe_file(f"{base}/{redo}", b"half")
    run_assemble(list=pictures, out=Path(url), partition="0/2", **SETTINGS)
    assert redo in objects_of(url)
    run_assemble(list=pictures, out=Path(url), partition="1/2", **SETTINGS)
    assert redo not in objects_of(url)


@pytest.mark.parametrize("lost", ["train/00002.tar", "blocks/train-00002.index.parquet"])
def test_a_block_that_lost_an_object_is_made_again(server, pictures, run_assemble, tmp_path, memory, lost):
    url = f"{memory}/x"
    run_assemble(list=pictures, out=Path(url), **SETTINGS)
    before = lasting_objects(url, tmp_path / "a")
    fs, base = open_store(url)
    fs.rm_file(f"{base}/{lost}")
    server.requests.clear()
    run_assemble(list=pictures, out=Path(url), **SETTINGS)
    assert len(server.requests) == 5
    assert lasting_objects(url, tmp_path / "b") == before


def test_a_kept_stage_is_a_dir_and_stays_up_to_date(server, draw_jpg, pictures, run_assemble, tmp_path, memory, capsys):
    url, base = f"{memory}/x", tmp_path / "stages"
    settings = {"list": pictures, "out": Path(url), "stage": base} | SETTINGS
    run_assemble(**settings, keep_stage=True)
    (stage,) = base.iterdir()
    (stage / "mean.npy").write_bytes(b"the user's")
    assert main(["verify", str(stage)]) == 0
    server.add("/9.jpg", Answer(draw_jpg(9)))
    run_assemble(**settings | {"stage": tmp_path / "other"}, retry="failed")  # on another machine
    run_assemble(**settings, keep_stage=True)
    assert len(list(stage.glob("*/*.tar"))) == 4  # the fifth has changed
    assert (stage / "mean.npy").exists()
    assert main(["merge", url, "--stage", str(base)]) == 0
    assert len(list(stage.glob("*/*.tar"))) == 4
    assert statuses(download(url, tmp_path / "copy"))[9] == "kept"
    run_assemble(**settings)
    assert not list(base.iterdir())
    capsys.readouterr()
