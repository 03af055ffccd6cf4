"""Publishes a file or a folder atomically, once it is complete."""

import contextlib
import shutil
from collections.abc import Generator
from pathlib import Path

from shards.format import sync_path


@contextlib.contextmanager
def publish(final: Path) -> Generator[Path]:
    """Yield a path beside `final` for a file or a folder, which replaces `final` at the end.

    If the block raises an exception, `final` stays as it was, and nothing else remains.
    """
    final.parent.mkdir(parents=True, exist_ok=True)
    new, old = (final.with_name(f".{final.name}.{state}") for state in ("new", "old"))
    _remove(new)
    try:
        yield new
        for path in (*new.glob("*"), new):
            sync_path(path)
        _remove(old)
        if final.is_dir():  # a rename doesn't replace a folder that has files
            final.rename(old)
        new.replace(final)
        sync_path(final.parent)
    finally:
        _remove(new)
        _remove(old)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
