import pytest

from shards.object_store import ObjectStore
from shards.storage.stage import Stage, clear_stage
from tests.stores import objects_of


@pytest.fixture
def stage(memory, tmp_path):
    stage = Stage(tmp_path / "stage", ObjectStore(f"{memory}/x"))
    for name, content in {"train/0.tar": b"12345", "blocks/a.json": b"{}", "blocks/b.json": b"[]"}.items():
        stage._objects.write(name, content)
    stage._objects.write(".work/whole.1.lock", b"")
    stage.refresh()
    return stage


def write(stage, name: str, content: bytes) -> None:
    (stage.root / name).parent.mkdir(parents=True, exist_ok=True)
    (stage.root / name).write_bytes(content)


def test_objects_are_listed_except_leases(stage):
    assert stage.names == {"train/0.tar", "blocks/a.json", "blocks/b.json"}
    assert stage.tars == {"train/0.tar": 5}


def test_only_missing_and_different_files_are_reported_as_changed(stage):
    write(stage, "blocks/a.json", b"{}")
    assert stage.download({"blocks/a.json", "blocks/b.json", "blocks/removed.json"}) == {"blocks/b.json"}
    assert (stage.root / "blocks/b.json").read_bytes() == b"[]"
    assert stage.is_uploaded("blocks/a.json")
    write(stage, "blocks/a.json", b"{1}")
    assert not stage.is_uploaded("blocks/a.json")


def test_what_is_uploaded_and_removed_is_recorded(stage, memory):
    write(stage, "blocks/a.json", b"{1}")
    write(stage, "train/1.tar", b"123")
    for name in ("blocks/a.json", "train/1.tar"):
        stage.upload(name)
    assert stage.is_uploaded("blocks/a.json")
    assert stage.tars == {"train/0.tar": 5, "train/1.tar": 3}
    stage.remove(["blocks/a.json", "blocks/b.json"])
    assert stage.names == {"train/0.tar", "train/1.tar"}
    assert not stage.is_uploaded("blocks/a.json")
    assert objects_of(f"{memory}/x") == {"train/0.tar": b"12345", "train/1.tar": b"123", ".work/whole.1.lock": b""}


def test_a_stage_is_cleared_of_dirs_files_and_not_of_the_users(stage):
    names = ["train/0.tar", "train/1.tar", "blocks/a.json", "index.parquet", "mean.npy", ".work/whole.lock"]
    for name in names:
        write(stage, name, b"")
    clear_stage(stage.root, keep={"train/1.tar"})
    assert {path.relative_to(stage.root).as_posix() for path in stage.root.rglob("*") if path.is_file()} == {
        "train/1.tar",
        "mean.npy",
        ".work/whole.lock",
    }
    assert not (stage.root / "blocks").exists()
    clear_stage(stage.root)
    assert {path.name for path in stage.root.rglob("*")} == {".work", "whole.lock"}
