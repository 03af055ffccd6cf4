"""Durable file operations: after each of them, the change survives a power failure."""

import os
from pathlib import Path


def publish_file(draft: Path, path: Path) -> None:
    """Move a finished file to its final path atomically: under that path there is never part of a file."""
    make_folder(path.parent)
    sync_path(draft)
    draft.replace(path)
    sync_path(path.parent)


def write_file(path: Path, content: bytes) -> None:
    """Write a file atomically, through a draft in its folder."""
    make_folder(path.parent)
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        draft.write_bytes(content)
        publish_file(draft, path)
    finally:
        draft.unlink(missing_ok=True)


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
