"""The order of uploads without a server; test_wandb_run.py and test_wandb_history.py have what a server gets."""

import dataclasses
import json
import logging
import math
import shutil
import types
from pathlib import Path

import pytest

from stylefinetune.config.schema import CheckpointConfig, Config, TrackingConfig, TrainConfig
from stylefinetune.tracking.dashboards.background import Background
from stylefinetune.tracking.dashboards.wandb_artifacts import FILES, ArtifactUploads
from stylefinetune.tracking.run_facts import SavedCheckpoint
from tests.run_facts import FACTS


class Run:
    """The methods of a wandb.Run that uploads use."""

    id, offline = "abcd", False

    def __init__(self):
        self.logged: list[str] = []
        self.used: list[str] = []
        self.paths: list[str] = []
        self.content: list[dict[str, str]] = []
        self.metadata: list[dict[str, object]] = []
        self.error: Exception | None = None
        self.before = lambda: None

    def log_artifact(self, artifact, aliases):
        self._keep(artifact)
        self.logged.append("+".join([artifact.name, *aliases]))

    def use_artifact(self, artifact, aliases):
        self._keep(artifact)
        self.used.append("+".join([artifact.name, *aliases]))

    def _keep(self, artifact):
        self.before()
        if self.error:
            raise self.error
        artifact.wait = lambda: None
        entries = artifact.manifest.entries
        self.paths += [entry.local_path for entry in entries.values()]
        self.content.append({path: Path(entry.local_path).read_text() for path, entry in entries.items()})
        self.metadata.append(dict(artifact.metadata))


@pytest.fixture
def started(tmp_path, monkeypatch):
    """Return a function that starts the uploads of the run in tmp_path, and what they use."""
    monkeypatch.setenv("WANDB_DATA_DIR", str(tmp_path / "staging"))

    def start(artifacts="all", stored=(), facts=FACTS, run_dir=tmp_path, **train):
        config = Config(
            run_dir=str(run_dir),
            train=TrainConfig(max_iter=20, **train),
            checkpoint=CheckpointConfig(snapshot=5),
            tracking=TrackingConfig(artifacts=artifacts),
        )
        run, errors = Run(), []
        background = Background(errors.append)
        log = logging.getLogger("uploads")
        uploads = ArtifactUploads(run, config, facts, stored, log, background)
        return types.SimpleNamespace(uploads=uploads, run=run, errors=errors, wait=lambda: background.wait(60))

    return start


@pytest.fixture
def saved(tmp_path):
    """Return a function that saves checkpoints and returns them all; that of `best` is the best."""

    def save(*iterations, best=-1):
        for iteration in iterations:
            folder = tmp_path / "checkpoints" / f"iter_{iteration}"
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "model").write_text(f"weights of {iteration}")
        paths = sorted((tmp_path / "checkpoints").iterdir(), key=lambda path: int(path.name[5:]))
        return [
            SavedCheckpoint(
                path,
                at,
                {"iteration": at, "accuracy": at / 100, "loss": math.nan} if at == best else {},
                is_best=at == best,
            )
            for path in paths
            for at in [int(path.name[5:])]
        ]

    return save


def test_a_checkpoint_is_sent_when_the_next_one_is_saved_and_the_last_one_at_the_end(started, saved):
    one = started()
    one.uploads.note_checkpoints(saved(5))
    assert one.wait()
    assert one.run.logged == []
    one.uploads.note_checkpoints(saved(10, best=5))
    one.uploads.note_checkpoints(saved(15, best=10))
    one.uploads.finish()
    assert one.wait()
    assert one.run.logged == [
        "checkpoint-abcd+iter_5+best",
        "checkpoint-abcd+iter_10+best",
        "checkpoint-abcd+iter_15",
    ]
    assert [content["model"] for content in one.run.content] == [f"weights of {n}" for n in (5, 10, 15)]
    first = one.run.metadata[0]
    assert "test/loss" not in first  # NaN is not JSON
    assert (first["iteration"], first["test/accuracy"], first["shards"]) == (5, 0.05, FACTS.index)
    assert one.errors == []


def test_the_last_and_the_best_one_are_sent_at_the_end(started, saved):
    one = started("last")
    one.uploads.note_checkpoints(saved(5, 10, best=5))
    one.uploads.note_checkpoints(saved(15, best=5))
    assert one.wait()
    assert one.run.logged == []
    one.uploads.finish()
    assert one.wait()
    assert one.run.logged == ["checkpoint-abcd+iter_5+best", "checkpoint-abcd+iter_15"]


def test_a_checkpoint_that_is_removed_before_its_upload_is_sent(started, saved, tmp_path):
    one = started()
    one.run.before = lambda: shutil.rmtree(tmp_path / "checkpoints", ignore_errors=True)
    one.uploads.note_checkpoints(saved(5, 10))
    assert one.wait()
    assert one.run.content == [{"model": "weights of 5"}]
    assert list((tmp_path / FILES).iterdir()) == []
    one.uploads.finish()  # iter_10 is gone
    assert one.wait()
    assert (one.run.logged, one.errors) == (["checkpoint-abcd+iter_5"], [])


def test_links_take_no_space(started, saved, tmp_path):
    one = started()
    inodes: list[int] = []
    one.run.before = lambda: inodes.append((tmp_path / FILES / "iter_5" / "model").stat().st_ino)
    one.uploads.note_checkpoints(saved(5, 10))
    assert one.wait()
    assert inodes == [(tmp_path / "checkpoints" / "iter_5" / "model").stat().st_ino]


def test_the_files_of_a_relative_run_dir_are_found_from_another_folder(started, saved, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    one = started(run_dir=".")
    one.uploads.note_checkpoints(saved(5, 10))
    assert one.wait()
    assert one.run.paths == [str(tmp_path / FILES / "iter_5" / "model")]


def test_a_resumed_run_sends_only_what_is_missing(started, saved, tmp_path):
    one = started()
    one.uploads.note_checkpoints(saved(5, 10, 15))
    assert one.wait()
    (tmp_path / FILES / "iter_15").mkdir()  # as after a kill
    two = started()
    assert list((tmp_path / FILES).iterdir()) == []
    two.uploads.note_checkpoints(saved(20))
    two.uploads.finish()
    assert two.wait()
    assert two.run.logged == ["checkpoint-abcd+iter_15", "checkpoint-abcd+iter_20"]
    assert json.loads((tmp_path / "wandb_artifacts.json").read_text()) == {
        "abcd": ["iter_10", "iter_15", "iter_20", "iter_5"]
    }


def test_another_run_at_wandb_gets_everything(started, saved, tmp_path):
    (tmp_path / "wandb_artifacts.json").write_text('{"other": ["iter_5"]}')
    one = started()
    one.uploads.note_checkpoints(saved(5))
    one.uploads.finish()
    assert one.wait()
    assert one.run.logged == ["checkpoint-abcd+iter_5"]


def test_what_is_stored_offline_is_not_sent(started, saved):
    one = started(stored={"iter_10", "latest", "best"})
    one.uploads.note_checkpoints(saved(5, 10, 15))
    one.uploads.finish()
    assert one.wait()
    assert one.run.logged == ["checkpoint-abcd+iter_15"]


def test_a_failed_upload_is_tried_again_before_the_next_one(started, saved):
    one = started()
    one.run.error = ValueError("no space")
    one.uploads.note_checkpoints(saved(5, 10))
    assert one.wait()
    assert [str(error) for error in one.errors] == ["iter_5 could not be uploaded: no space"]
    assert one.uploads.waiting_bytes == len("weights of 5")
    one.run.error = None
    one.uploads.note_checkpoints(saved(15))
    assert one.wait()
    assert one.run.logged == ["checkpoint-abcd+iter_5", "checkpoint-abcd+iter_10"]


def test_slow_uploads_skip_checkpoints_except_the_best_one(started, saved, caplog):
    one = started()
    one.run.error = ValueError("slow")
    one.uploads.note_checkpoints(saved(1, 2))
    one.uploads.note_checkpoints(saved(3, best=2))
    for iteration in (4, 5, 6):
        one.uploads.note_checkpoints(saved(iteration))
    assert one.wait()
    one.run.error = None
    one.uploads.finish()
    assert one.wait()
    assert one.run.logged[:2] == ["checkpoint-abcd+iter_1", "checkpoint-abcd+iter_2+best"]
    assert one.run.logged[-1] == "checkpoint-abcd+iter_6"
    assert "does not get iter_3, since checkpoints are saved faster" in caplog.text


def test_the_index_is_the_input_and_is_sent_once(started, tmp_path):
    index = tmp_path / "index.parquet"
    index.write_text("the index")
    facts = dataclasses.replace(FACTS, index_file=index)
    used = []
    for _ in range(2):
        one = started("last", facts=facts)
        one.uploads.add_index()
        assert one.wait()
        used.append(one.run.used)
    assert used == [[f"shards-flickr_style+{FACTS.index[:12]}"], []]
    assert json.loads((tmp_path / "wandb_artifacts.json").read_text()) == {"abcd": [FACTS.index[:12]]}


@pytest.mark.parametrize(
    ("artifacts", "train", "start", "expected"),
    [
        ("all", {}, 0, "up to 4 checkpoints of 500.0 kB, 2.0 MB in all"),
        ("all", {}, 10, "up to 2 checkpoints of 500.0 kB, 1.0 MB in all"),
        ("all", {}, 20, "up to 1 checkpoint of 500.0 kB, 500.0 kB in all"),
        ("all", {"patience": 2, "test_interval": 2}, 0, "at least 4 checkpoints of 500.0 kB, 2.0 MB in all"),
        ("last", {}, 0, "up to 2 checkpoints of 500.0 kB, 1.0 MB in all"),
    ],
)
def test_the_size_is_said_first(started, artifacts, train, start, expected):
    facts = dataclasses.replace(FACTS, checkpoint_bytes=500_000)
    line = started(artifacts, facts=facts, **train).uploads.describe(start)
    assert line == f"Weights & Biases uploads {expected}"


def test_nothing_is_said_if_everything_is_sent(started, tmp_path):
    index = tmp_path / "index.parquet"
    index.write_text("the index")
    facts = dataclasses.replace(FACTS, index_file=index)
    assert started(facts=facts).uploads.describe(0).endswith(", and the index of the shards, 0.0 kB")
    assert "index" not in started(facts=facts, stored={FACTS.index[:12]}).uploads.describe(0)
    assert started(facts=facts, stored={"iter_20"}).uploads.describe(20) == ""
