import pytest

from stylefinetune.checkpoint.atomic_folder import (
    DamagedFolderError,
    recover_folders,
    remove_folder,
    verify_folder,
    write_folder,
)


def written(final, text="good"):
    write_folder(final, lambda folder: [(folder / name).write_text(text) for name in ("a.bin", "b.bin")])
    return final


def test_a_folder_is_written_and_replaced(tmp_path):
    final = written(tmp_path / "box")
    verify_folder(final)
    written(final, "better")
    verify_folder(final)
    assert (final / "a.bin").read_text() == "better"
    assert [path.name for path in tmp_path.iterdir()] == ["box"]


@pytest.mark.parametrize("file", ["a.bin", "b.bin", "manifest.json"])
@pytest.mark.parametrize("damage", ["truncate", "flip", "append", "delete"])
def test_a_damaged_file_is_named(tmp_path, file, damage):
    path = written(tmp_path / "box") / file
    content = path.read_bytes()
    if damage == "delete":
        path.unlink()
    else:
        at = content.rindex(b"sha256") + 12 if file == "manifest.json" else 1  # a digit of the manifest's checksum
        flipped = content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :]
        path.write_bytes({"truncate": content[:-3], "flip": flipped, "append": content + b"x"}[damage])
    with pytest.raises(DamagedFolderError, match=file.replace(".", r"\.")):
        verify_folder(tmp_path / "box")


def test_a_manifest_that_matches_changed_files_fails_its_own_checksum(tmp_path):
    final, other = written(tmp_path / "box"), written(tmp_path / "other", "evil")
    manifest, other_manifest = ((folder / "manifest.json").read_text() for folder in (final, other))
    checksum = manifest.rpartition('"sha256"')[2]
    (final / "manifest.json").write_text(other_manifest.rpartition('"sha256"')[0] + '"sha256"' + checksum)
    (final / "a.bin").write_text("evil")
    (final / "b.bin").write_text("evil")
    with pytest.raises(DamagedFolderError, match="has changed since it was written"):
        verify_folder(final)


def test_a_failed_write_keeps_the_old_folder(tmp_path):
    final = written(tmp_path / "box")

    def fail(folder):
        (folder / "a.bin").write_text("half")
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        write_folder(final, fail)
    verify_folder(final)
    assert [path.name for path in tmp_path.iterdir()] == ["box"]


def test_what_a_kill_left_is_restored_or_removed(tmp_path):
    killed_between_renames = written(tmp_path / "between")
    killed_between_renames.rename(tmp_path / ".between.old")
    written(tmp_path / ".between.new")
    written(tmp_path / "after")
    written(tmp_path / ".after.old", "older")
    written(tmp_path / "removing").rename(tmp_path / ".removing.old")
    (tmp_path / ".writing.new").mkdir()
    recover_folders(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["after", "between"]
    for name in ("after", "between"):
        verify_folder(tmp_path / name)
        assert (tmp_path / name / "a.bin").read_text() == "good"
    recover_folders(tmp_path / "nowhere")


def test_a_folder_is_removed(tmp_path):
    remove_folder(written(tmp_path / "box"))
    assert list(tmp_path.iterdir()) == []
