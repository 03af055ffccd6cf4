"""Durable file operations: after each of them, the change survives a power failure."""

import contextlib
import errno
import json
import os
from pathlib import Path


def is_full_disk(error: BaseException) -> bool:
    """Return whether an error says that a disk, or a user's share of it, is full."""
    return isinstance(error, OSError) and error.errno in {errno.ENOSPC, errno.EDQUOT}


def publish_file(draft: Path, path: Path) -> None:
    """Move a finished file to its final path atomically: under that path there is never part of a file."""
    make_folder(path.parent)
    sync_path(draft)
    draft.replace(path)
    sync_path(path.parent)


def write_file(path: Path, content: bytes) -> None:
    """Write a file atomically, through a draft in its folder.

    Raises:
        OSError: it can't be written; the error names the file, and not the draft.
    """
    make_folder(path.parent)
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        draft.write_bytes(content)
        publish_file(draft, path)
    except OSError as error:
        error.filename, error.filename2 = str(path), None
        raise
    finally:
        with contextlib.suppress(OSError):  # it is gone, or nothing can be written here
            draft.unlink()


def publish_json(path: Path, value: object, work: Path) -> None:
    """Write a JSON file atomically, through a draft in `work`, a folder in its file system."""
    draft = work / path.name
    draft.write_text(json.dumps(value), encoding="utf-8")
    publish_file(draft, path)


def unpublish_file(path: Path) -> None:
    """Remove a file if it exists."""
    try:
        path.unlink()
    except FileNotFoundError:  # another process may remove it at the same time
        return
    sync_path(path.parent)


def make_folder(path: Path) -> None:
    """Create a folder and its missing parents."""
    if not path.is_dir():
        make_folder(path.parent)
        path.mkdir(exist_ok=True)
        sync_path(path.parent)


def sync_path(path: Path) -> None:
    """Wait until a file's contents, or a folder's list of files, are on disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
