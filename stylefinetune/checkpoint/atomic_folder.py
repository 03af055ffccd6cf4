"""A folder that is there whole or not at all: written beside, sealed with a checksum of every file, synced, renamed."""

import contextlib
import hashlib
import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

from shards.format import sync_path

MANIFEST = "manifest.json"
BESIDE, ASIDE = ".new", ".old"


class DamagedFolderError(Exception):
    """A folder isn't as it was sealed; the message names the file."""


def write_folder(final: Path, write: Callable[[Path], None]) -> None:
    """Lets `write` fill a folder beside `final` and puts it in its place, whatever was there.

    A kill at any moment leaves the old one or the new one, in place or where `recover` puts it back from.
    """
    beside, aside = _hidden(final, BESIDE), _hidden(final, ASIDE)
    try:
        shutil.rmtree(beside, ignore_errors=True)
        beside.mkdir(parents=True)
        write(beside)
        _write_manifest(beside)
        if final.exists():
            shutil.rmtree(aside, ignore_errors=True)
            final.rename(aside)
        beside.rename(final)
        sync_path(final.parent)
    except BaseException:
        shutil.rmtree(beside, ignore_errors=True)
        if aside.exists() and not final.exists():
            aside.rename(final)
        raise
    shutil.rmtree(aside, ignore_errors=True)


def remove_folder(folder: Path) -> None:
    """Removes a folder, which is hidden first, so that no half of it is ever seen."""
    hidden = _hidden(folder, ASIDE)
    folder.rename(hidden)
    shutil.rmtree(hidden, ignore_errors=True)


def recover_folders(parent: Path) -> None:
    """Clears away what a kill in `publish` or `remove` left in `parent`."""
    for aside in parent.glob(f".*{ASIDE}"):
        final = aside.with_name(aside.name.removeprefix(".").removesuffix(ASIDE))
        # A folder half removed lacks its manifest or no longer agrees with it.
        with contextlib.suppress(DamagedFolderError):
            verify_folder(aside)
            if not final.exists() and _hidden(final, BESIDE).exists():
                aside.rename(final)
    for left in (*parent.glob(f".*{BESIDE}"), *parent.glob(f".*{ASIDE}")):
        shutil.rmtree(left)


def verify_folder(folder: Path) -> None:
    """Sees that every file of `folder` is as it was sealed.

    Raises:
        DamagedError: one is missing, too many, cut short or changed.
    """
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        files, own = dict(manifest["files"]), manifest["sha256"]
    except FileNotFoundError as error:
        raise DamagedFolderError(f"{MANIFEST} is missing: it was never finished") from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DamagedFolderError(f"{MANIFEST} can't be read") from error
    if own != _digest_of(files):
        raise DamagedFolderError(f"{MANIFEST} has changed since it was written")
    for name, digest in files.items():
        try:
            found = _digest(folder / name)
        except FileNotFoundError as error:
            raise DamagedFolderError(f"{name} is missing") from error
        except OSError as error:
            raise DamagedFolderError(f"{name} can't be read: {error.strerror}") from error
        if found["bytes"] != digest["bytes"]:
            raise DamagedFolderError(f"{name} has {found['bytes']} bytes instead of {digest['bytes']}")
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


def _hidden(folder: Path, ending: str) -> Path:
    return folder.with_name(f".{folder.name}{ending}")
