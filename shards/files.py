"""Files that appear under their final name only once they are complete and on disk."""

import os
from pathlib import Path


def publish_file(draft: Path, path: Path) -> None:
    """Gives a finished file its name, so that it is there whole or not at all, whatever happens to the machine."""
    make_folder(path.parent)
    with draft.open("rb") as file:
        os.fsync(file.fileno())
    draft.replace(path)
    sync_path(path.parent)


def unpublish_file(path: Path) -> None:
    """Removes a file, if it is there, so that it stays removed whatever happens to the machine."""
    try:
        path.unlink()
    except FileNotFoundError:  # it wasn't, or another process has just done it
        return
    sync_path(path.parent)


def make_folder(path: Path) -> None:
    """Creates a folder and its missing parents, each synced to disk."""
    if not path.is_dir():
        make_folder(path.parent)
        path.mkdir(exist_ok=True)
        sync_path(path.parent)


def sync_path(path: Path) -> None:
    """Waits until a file, or what a folder says of its files, is on disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
