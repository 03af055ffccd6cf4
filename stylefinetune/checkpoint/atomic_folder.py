"""Writes and removes folders atomically, with a manifest of checksums.

A folder is written under a temporary name, synced and renamed.
"""

import contextlib
import hashlib
import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

from shards.format import sync_path

MANIFEST = "manifest.json"
NEW, OLD = ".new", ".old"


class DamagedFolderError(Exception):
    """A folder disagrees with its manifest; the message names the file."""


def write_folder(final: Path, write: Callable[[Path], None]) -> None:
    """Create or replace the folder `final`, whose files `write` writes into the folder that it is given.

    After a kill at any moment, `final` is the old or the new folder once `recover_folders` has run.
    """
    new, old = _hidden(final, NEW), _hidden(final, OLD)
    try:
        shutil.rmtree(new, ignore_errors=True)
        new.mkdir(parents=True)
        write(new)
        _write_manifest(new)
        if final.exists():
            shutil.rmtree(old, ignore_errors=True)
            final.rename(old)
        new.rename(final)
        sync_path(final.parent)
    except BaseException:
        shutil.rmtree(new, ignore_errors=True)
        if old.exists() and not final.exists():
            old.rename(final)
        raise
    shutil.rmtree(old, ignore_errors=True)


def remove_folder(folder: Path) -> None:
    """Remove a folder atomically: rename it to a hidden name first."""
    old = _hidden(folder, OLD)
    folder.rename(old)
    shutil.rmtree(old, ignore_errors=True)


def recover_folders(parent: Path) -> None:
    """Restore or remove the hidden folders that a kill in `write_folder` or `remove_folder` left in `parent`."""
    for old in parent.glob(f".*{OLD}"):
        final = old.with_name(old.name.removeprefix(".").removesuffix(OLD))
        with contextlib.suppress(DamagedFolderError):  # partly removed
            verify_folder(old)
            if not final.exists() and _hidden(final, NEW).exists():
                old.rename(final)
    for hidden in (*parent.glob(f".*{NEW}"), *parent.glob(f".*{OLD}")):
        shutil.rmtree(hidden)


def verify_folder(folder: Path) -> None:
    """Check the files of `folder` against its manifest.

    Raises:
        DamagedFolderError: a file is missing, truncated or changed.
    """
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        files, digest_of_files = dict(manifest["files"]), manifest["sha256"]
    except FileNotFoundError as error:
        raise DamagedFolderError(f"{MANIFEST} is missing: the folder is incomplete") from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DamagedFolderError(f"{MANIFEST} can't be read") from error
    if digest_of_files != _digest_of(files):
        raise DamagedFolderError(f"{MANIFEST} has changed since it was written")
    for name, digest in files.items():
        try:
            found = _digest(folder / name)
        except FileNotFoundError as error:
            raise DamagedFolderError(f"{name} is missing") from error
        except OSError as error:
            raise DamagedFolderError(f"{name} can't be read: {error.strerror}") from error
        if found != digest:
            raise DamagedFolderError(f"{name} has changed since it was written")


def _write_manifest(folder: Path) -> None:
    files = {path.name: _digest(path) for path in sorted(folder.iterdir())}
    manifest = {"files": files, "sha256": _digest_of(files)}
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")
    for path in folder.iterdir():
        sync_path(path)
    sync_path(folder)


def _digest(path: Path) -> dict[str, object]:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        return {"bytes": file.tell(), "sha256": digest}


def _digest_of(files: Mapping[str, object]) -> str:
    return hashlib.sha256(json.dumps(files, sort_keys=True).encode()).hexdigest()


def _hidden(folder: Path, suffix: str) -> Path:
    return folder.with_name(f".{folder.name}{suffix}")
