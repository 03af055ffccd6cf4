import pytest

from stylefinetune.checkpoint.atomic_folder import (
    DamagedFolderError,
    recover_folders,
    remove_folder,
    verify_folder,
    write_folder,
)


def sealed(final, text="good"):
    write_folder(final, lambda folder: [(folder / name).write_text(text) for name in ("a.bin", "b.bin")])
    return final


def test_a_folder_is_there_whole_and_replaced_whole(tmp_path):
    final = sealed(tmp_path / "box")
    verify_folder(final)
    sealed(final, "better")
    verify_folder(final)
    assert (final / "a.bin").read_text() == "better"
    assert [path.name for path in tmp_path.iterdir()] == ["box"]


@pytest.mark.parametrize("file", ["a.bin", "b.bin", "manifest.json"])
@pytest.mark.parametrize("harm", ["cut", "flip", "grow", "lose"])
def test_whatever_changes_is_named(tmp_path, file, harm):
    path = sealed(tmp_path / "box") / file
    body = path.read_bytes()
    if harm == "lose":
        path.unlink()
    else:
        # The last byte of a manifest is its line's end; a digit of it is flipped instead.
        place = body.rindex(b"sha256") + 12 if file == "manifest.json" else 1
        flipped = body[:place] + bytes([body[place] ^ 1]) + body[place + 1 :]
        path.write_bytes({"cut": body[:-3], "flip": flipped, "grow": body + b"x"}[harm])
    with pytest.raises(DamagedFolderError, match=file.replace(".", r"\.")):
        verify_folder(tmp_path / "box")


def test_a_manifest_that_agrees_with_changed_files_must_agree_with_itself(tmp_path):
    final, other = sealed(tmp_path / "box"), sealed(tmp_path / "other", "evil")
    ours, theirs = ((folder / "manifest.json").read_text() for folder in (final, other))
    own = ours.rpartition('"sha256"')[2]
    (final / "manifest.json").write_text(theirs.rpartition('"sha256"')[0] + '"sha256"' + own)
    (final / "a.bin").write_text("evil")
    (final / "b.bin").write_text("evil")
    with pytest.raises(DamagedFolderError, match="has changed since it was written"):
        verify_folder(final)


def test_a_failure_leaves_what_was_there(tmp_path):
    final = sealed(tmp_path / "box")

    def fail(folder):
        (folder / "a.bin").write_text("half")
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        write_folder(final, fail)
    verify_folder(final)
    assert [path.name for path in tmp_path.iterdir()] == ["box"]


def test_what_a_kill_left_is_put_back_or_cleared_away(tmp_path):
    killed_between_renames = sealed(tmp_path / "between")
    killed_between_renames.rename(tmp_path / ".between.old")
    sealed(tmp_path / ".between.new")
    sealed(tmp_path / "after")
    sealed(tmp_path / ".after.old", "older")
    sealed(tmp_path / "removing").rename(tmp_path / ".removing.old")
    (tmp_path / ".writing.new").mkdir()
    recover_folders(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["after", "between"]
    for name in ("after", "between"):
        verify_folder(tmp_path / name)
        assert (tmp_path / name / "a.bin").read_text() == "good"
    recover_folders(tmp_path / "nowhere")


def test_a_folder_goes_away_whole(tmp_path):
    remove_folder(sealed(tmp_path / "box"))
    assert list(tmp_path.iterdir()) == []
