"""Finds the local files that the rows of a list name."""

import datetime as dt
import os
from pathlib import Path
from typing import Any, Protocol

from shards.format.outcomes import Outcome, Status
from shards.format.text import find_file


class LocalPictures(Protocol):
    """Pictures on this machine."""

    def take(self, row: dict[str, Any], folder: Path) -> tuple[Outcome, Path | None]:
        """Return the outcome for a row of the list, and a file with its picture; it may be created in `folder`."""
        ...


class PictureFiles:
    """Pictures in files; relative paths are relative to `base`."""

    def __init__(self, base: Path) -> None:
        self._base = base

    def take(self, row: dict[str, Any], folder: Path) -> tuple[Outcome, Path | None]:
        """Return the outcome for a row of the list, and the file with its picture.

        `folder` is the block's folder for temporary files, which isn't needed here.
        """
        del folder
        now, path = dt.datetime.now(dt.UTC), find_file(os.path.join(self._base, row["image_url"]))  # noqa: PTH118
        try:
            if path.exists() and not path.is_file():
                return Outcome(Status.MISSING_FILE, now, message="not a regular file"), None
            path.open("rb").close()
        except (OSError, ValueError) as error:
            reason = str(error.strerror if isinstance(error, OSError) else error)
            if isinstance(error, FileNotFoundError) and "\\" in row["image_url"]:
                reason += "; write / instead of \\"  # the path is probably one of Windows
            return Outcome(Status.MISSING_FILE, now, message=reason), None
        return Outcome(Status.KEPT, now), path
