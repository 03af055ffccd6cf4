"""Sends the checkpoints of a run and the index of its shards to Weights & Biases, as artifacts.

W&B reads the files of an artifact while it uploads them, and a run may remove an old checkpoint meanwhile. Therefore
the files of a checkpoint are hard-linked into RUN/wandb/artifact_files first. Links take no disk space until the
checkpoint is removed. Once W&B has an artifact, its links are removed; offline they stay for `wandb sync`.

A checkpoint is sent when the next one is saved, or when the run ends: then its test is known, and whether it is the
best. W&B moves the alias `latest` to what is sent last, so checkpoints are sent in order. RUN/wandb_artifacts.json
records the aliases of what W&B has, for resumed runs.
"""

import collections
import dataclasses
import hashlib
import json
import logging
import math
import os
import re
import shutil
import threading
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import wandb

from stylefinetune.config.cli import dump_config
from stylefinetune.config.schema import Config, TrackingConfig
from stylefinetune.tracking.dashboards.background import Background
from stylefinetune.tracking.run_facts import RunFacts, SavedCheckpoint

FILES = "wandb/artifact_files"
RECORD = "wandb_artifacts.json"
BEST = "best"
_MOST_WAITING = 3  # checkpoints, of which the first may be uploading


@dataclasses.dataclass(frozen=True)
class _Upload:
    """An artifact whose files are linked into `folder`, which is named as the alias that no other version has."""

    folder: Path
    size: int  # bytes
    name: str
    type: str
    aliases: list[str]
    metadata: dict[str, Any]


class ArtifactUploads:
    """Uploads artifacts of a W&B run in a thread, `background`.

    Args:
        run: the wandb.Run.
        config: settings of the run; tracking.artifacts is last or all.
        facts: facts of the run.
        stored: aliases of the artifacts in the run's offline folders.
        log: gets a warning for each artifact that can't be sent.
        background: the thread.
    """

    def __init__(
        self,
        run: Any,  # noqa: ANN401 -- wandb's Run, which its lazy module doesn't type
        config: Config,
        facts: RunFacts,
        stored: Iterable[str],
        log: logging.Logger,
        background: Background,
    ) -> None:
        self._run, self._config, self._facts, self._log, self._background = run, config, facts, log, background
        self._record = Path(config.run_dir) / RECORD
        self._files = Path(config.run_dir).absolute() / FILES  # `wandb sync` may run in another folder
        self._done = set(stored) | _read_record(self._record, run.id)
        self._last = max((_iteration(alias) for alias in self._done), default=-1)  # iteration of the last one queued
        self._waiting: collections.deque[_Upload] = collections.deque()
        self._lock = threading.Lock()  # of _waiting
        self._saved: Sequence[SavedCheckpoint] = []
        for folder in self._files.glob("*"):
            if folder.name not in self._done:  # its upload was interrupted
                shutil.rmtree(folder, ignore_errors=True)

    @property
    def waiting_bytes(self) -> int:
        """The bytes of the artifacts that are not sent yet."""
        with self._lock:
            return sum(upload.size for upload in self._waiting)

    @property
    def _index_alias(self) -> str:
        return self._facts.index[:12]

    def add_index(self) -> None:
        """Send the index of the shards as the input of the run, unless W&B has it."""
        if self._index_alias in self._done or self._facts.index_file is None:
            return
        folder = self._config.data.shards.rstrip("/").rpartition("/")[2]
        name = f"shards-{re.sub(r'[^A-Za-z0-9_.-]', '-', folder)}"
        metadata = {"fingerprint": self._facts.index, "classes": list(self._facts.classes)}
        upload = self._link([self._facts.index_file], self._index_alias, name=name, type="dataset", metadata=metadata)
        if upload:
            self._background.submit(lambda: self._send(upload, is_input=True))

    def note_checkpoints(self, saved: Sequence[SavedCheckpoint]) -> None:
        """Note the checkpoints of the run, oldest first, before old ones are removed."""
        self._saved = saved
        if self._config.tracking.artifacts == "all":
            self._add_checkpoints(saved[:-1])

    def finish(self) -> None:
        """Send what is missing at the end of the run."""
        saved = [one for one in self._saved if one.path.exists()]
        if self._config.tracking.artifacts == "last":
            saved = [one for one in saved[:-1] if one.is_best] + saved[-1:]
        self._add_checkpoints(saved)

    def describe(self, start: int) -> str:
        """Return a line about what is going to be sent by a run from iteration `start`; empty if W&B has it."""
        train, every = self._config.train, self._config.checkpoint.snapshot
        if self._last >= train.max_iter:
            return ""
        each, index = self._facts.checkpoint_bytes, self._facts.index_file
        count = 2
        if self._config.tracking.artifacts == "all":
            multiples = train.max_iter // every - start // every if every else 0
            count = max(1, multiples + (every == 0 or train.max_iter % every > 0))
        least = "at least" if self._config.tracking.artifacts == "all" and train.patience else "up to"
        verb = "stores for `wandb sync`" if self._run.offline else "uploads"
        named = "checkpoint" if count == 1 else "checkpoints"
        line = f"Weights & Biases {verb} {least} {count} {named} of {_size(each)}, {_size(count * each)} in all"
        if index is None or self._index_alias in self._done:
            return line
        return f"{line}, and the index of the shards, {_size(index.stat().st_size)}"

    def _add_checkpoints(self, saved: Sequence[SavedCheckpoint]) -> None:
        shared = {"config": _fingerprint(self._config), "shards": self._facts.index}
        for one in saved:
            if one.iteration <= self._last:
                continue
            self._last = one.iteration
            values = {name: value for name, value in one.test.items() if name != "iteration" and math.isfinite(value)}
            tests = {f"test/{name}": value for name, value in values.items()}
            upload = self._link(
                sorted(one.path.iterdir()),
                one.path.name,
                *([BEST] if one.is_best else []),
                name=f"checkpoint-{self._run.id}",
                type="model",
                metadata={"iteration": one.iteration, **tests, **shared},
            )
            if upload:
                with self._lock:
                    self._waiting.append(upload)
                    if len(self._waiting) > _MOST_WAITING and not self._run.offline:
                        self._skip_one()
                self._background.submit(self._send_waiting)

    def _link(self, files: list[Path], alias: str, *further: str, **of_upload: Any) -> _Upload | None:  # noqa: ANN401
        """Link the files of an artifact into a folder; return None if that fails."""
        folder = self._files / alias
        try:
            return _Upload(folder, _link_files(files, folder), aliases=[alias, *further], **of_upload)
        except OSError as error:
            self._log.warning("Weights & Biases can't get %s: %s", alias, error)
            return None

    def _skip_one(self) -> None:
        """Give up a checkpoint in the middle, one that is not the best if possible."""
        middle = list(self._waiting)[1:-1]
        skipped = next((one for one in middle if BEST not in one.aliases), middle[0])
        self._waiting.remove(skipped)
        shutil.rmtree(skipped.folder, ignore_errors=True)
        message = "Weights & Biases does not get %s, since checkpoints are saved faster than they are uploaded"
        self._log.warning(message, skipped.folder.name)

    def _send_waiting(self) -> None:
        """Send the waiting checkpoints; one that fails stays the first, and is tried again with the next one."""
        while self._waiting:
            self._send(self._waiting[0], is_input=False)
            with self._lock:
                self._waiting.popleft()

    def _send(self, upload: _Upload, *, is_input: bool) -> None:
        alias, offline = upload.folder.name, self._run.offline
        try:
            artifact = wandb.Artifact(upload.name, upload.type, metadata=upload.metadata)
            for path in sorted(upload.folder.iterdir()):
                artifact.add_file(str(path), policy="immutable", skip_cache=True)  # the other policy copies the file
            if not is_input:
                self._run.log_artifact(artifact, aliases=upload.aliases)
            elif not offline:
                self._run.use_artifact(artifact, aliases=upload.aliases)
            else:  # use_artifact refuses to work offline, although `wandb sync` can do it
                self._run._log_artifact(artifact, aliases=upload.aliases, is_user_created=True, use_after_commit=True)  # noqa: SLF001
            if not offline:
                artifact.wait()
        except Exception as error:
            raise RuntimeError(f"{alias} could not be uploaded: {error}") from error
        self._done.add(alias)
        if not offline:  # offline folders record what they have
            _write_record(self._record, self._run.id, self._done)
            shutil.rmtree(upload.folder, ignore_errors=True)


def _link_files(files: list[Path], folder: Path) -> int:
    """Link `files` into a new folder, or copy them where links are not supported; return their bytes."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for path in files:
        try:
            os.link(path, folder / path.name)
        except OSError:
            shutil.copyfile(path, folder / path.name)
    return sum(path.stat().st_size for path in folder.iterdir())


def _fingerprint(config: Config) -> str:
    """Return a hash of the settings that the training depends on."""
    same = dataclasses.replace(config, run_dir="", resume="auto", tracking=TrackingConfig())
    return hashlib.sha256(dump_config(same).encode()).hexdigest()


def _iteration(alias: str) -> int:
    """Return the iteration of a checkpoint's alias; -1 for other aliases."""
    return int(alias[5:]) if re.fullmatch(r"iter_\d+", alias) else -1


def _read_record(path: Path, run_id: str) -> set[str]:
    try:
        return set(json.loads(path.read_text(encoding="utf-8"))[run_id])
    except (OSError, ValueError, TypeError, KeyError):
        return set()


def _write_record(path: Path, run_id: str, aliases: set[str]) -> None:
    temporary = path.with_name(f"{path.name}.tmp")
    temporary.write_text(json.dumps({run_id: sorted(aliases)}) + "\n", encoding="utf-8")
    temporary.replace(path)


def _size(count: float) -> str:
    unit, factor = next(pair for pair in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)) if count >= pair[1] or pair[0] == "kB")
    return f"{count / factor:.1f} {unit}"
