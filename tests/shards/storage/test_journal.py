import itertools

import pytest

from shards import files
from shards.storage import journal
from shards.storage.shard_dir import Block

BLOCK, OTHER = Block("train", 3), Block("train", 4)


class Killed(BaseException):
    """Ends a process in the middle of an operation."""


@pytest.fixture
def killed_at(monkeypatch):
    """Raises Killed at the n-th change to DIR, before it or after it."""

    def kill_at(step: int, *, is_done: bool) -> None:
        steps = itertools.count()
        for name in ("publish_file", "unpublish_file"):
            change = getattr(files, name)

            def stop(*paths, change=change) -> None:
                is_last = next(steps) == step
                if not is_last or is_done:
                    change(*paths)
                if is_last:
                    raise Killed

            monkeypatch.setattr(journal, name, stop)

    yield kill_at
    monkeypatch.undo()


def drafts(root, word: str) -> list:
    work = root / ".work"
    work.mkdir(parents=True, exist_ok=True)
    paths = [work / name for name in ("draft.tar", "index.parquet", "outcomes.parquet")]
    for path in paths:
        path.write_text(f"{word} {path.name}")
    return paths


def contents(root) -> list[str | None]:
    found = [(root / name).read_text() if (root / name).exists() else None for name in BLOCK.files]
    return [text and text.split()[0] for text in found]


def redo_folders(root) -> list:
    return list((root / "blocks").glob("*.redo"))


def test_a_block_is_committed_and_replaced(tmp_path):
    journal.commit_block(tmp_path, BLOCK, *drafts(tmp_path, "old"))
    assert contents(tmp_path) == ["old"] * 3
    (tmp_path / "index.parquet").write_text("of the old tar")
    journal.replace_block(tmp_path, BLOCK, *drafts(tmp_path, "new"))
    assert contents(tmp_path) == ["new"] * 3
    assert not (tmp_path / "index.parquet").exists()
    assert redo_folders(tmp_path) == []


def test_a_process_whose_temporary_files_are_gone_leaves_a_committed_block_alone(tmp_path):
    journal.commit_block(tmp_path, BLOCK, *drafts(tmp_path, "another"))
    with pytest.raises(FileNotFoundError):
        journal.commit_block(tmp_path, BLOCK, *(tmp_path / ".work" / name for name in ("a", "b", "c")))
    assert contents(tmp_path) == ["another"] * 3


STEPS = 12  # publish three files and the marker; remove the index; publish three files; remove four


@pytest.mark.parametrize("is_done", [False, True])
def test_a_replacement_killed_at_any_step_leaves_all_old_or_all_new_files(tmp_path, killed_at, is_done):
    outcomes = []
    for step in range(STEPS + 1):
        root = tmp_path / str(step)
        journal.commit_block(root, BLOCK, *drafts(root, "old"))
        (root / "index.parquet").write_text("of the old tar")
        killed_at(step, is_done=is_done)
        try:
            journal.replace_block(root, BLOCK, *drafts(root, "new"))
        except Killed:
            assert step < STEPS
        else:
            assert step == STEPS
        killed_at(-1, is_done=True)
        was_mixed = len(set(contents(root))) > 1
        journal.recover_blocks(root, [BLOCK, OTHER])
        assert redo_folders(root) == []
        assert (root / "index.parquet").exists() == (contents(root)[0] == "old")
        outcomes.append((contents(root), was_mixed))
    words = [found[0] for found, _ in outcomes]
    assert all(found == [found[0]] * 3 for found, _ in outcomes)
    assert words == sorted(words, reverse=True)  # old until the marker is there, new after that
    assert set(words) == {"old", "new"}
    assert any(was_mixed for _, was_mixed in outcomes)  # otherwise the test shows nothing


def test_a_recovery_that_was_killed_can_be_repeated(tmp_path, killed_at):
    for step in range(8):
        root = tmp_path / str(step)
        journal.commit_block(root, BLOCK, *drafts(root, "old"))
        killed_at(4, is_done=False)
        with pytest.raises(Killed):
            journal.replace_block(root, BLOCK, *drafts(root, "new"))
        killed_at(step, is_done=True)
        with pytest.raises(Killed):
            journal.recover_blocks(root, [BLOCK])
        killed_at(-1, is_done=True)
        journal.recover_blocks(root, [BLOCK])
        assert contents(root) == ["new"] * 3
        assert redo_folders(root) == []


def test_the_replacements_of_another_partition_are_left_alone(tmp_path, killed_at):
    journal.commit_block(tmp_path, BLOCK, *drafts(tmp_path, "old"))
    killed_at(4, is_done=False)
    with pytest.raises(Killed):
        journal.replace_block(tmp_path, BLOCK, *drafts(tmp_path, "new"))
    killed_at(-1, is_done=True)
    journal.recover_blocks(tmp_path, [OTHER])
    assert len(redo_folders(tmp_path)) == 1
    assert contents(tmp_path) == ["old"] * 3


@pytest.mark.parametrize("lost", BLOCK.files)
def test_a_block_that_lost_a_file_is_not_committed_until_all_its_new_files_are_there(tmp_path, killed_at, lost):
    for step in range(5):
        root = tmp_path / str(step)
        journal.commit_block(root, BLOCK, *drafts(root, "old"))
        (root / "index.parquet").write_text("of the old tar")
        (root / lost).unlink()
        killed_at(step, is_done=True)
        with pytest.raises(Killed):
            journal.commit_block(root, BLOCK, *drafts(root, "new"))
        killed_at(-1, is_done=True)
        assert (root / BLOCK.outcomes_part).exists() == (step == 4)
        assert (root / "index.parquet").exists() == (step == 0)
