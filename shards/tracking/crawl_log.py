"""The rows of a crawl that were logged, in a file of JSON lines: W&B gets from it what a kill or an outage lost."""

import json
from pathlib import Path
from typing import Any


class CrawlLog:
    """The rows in a file, which grows row by row.

    Attributes:
        rows: all rows, those of earlier processes first. A row's position is its step at W&B.
    """

    def __init__(self, path: Path) -> None:
        """Read the file, if there is one, and remove a last line that a kill has cut off."""
        self._path = path
        self.rows: list[dict[str, Any]] = []
        end = 0
        for line in path.read_bytes().splitlines(keepends=True) if path.is_file() else ():
            try:
                row = json.loads(line)
            except ValueError:
                break
            if not line.endswith(b"\n"):
                break
            self.rows.append(row)
            end += len(line)
        if path.is_file() and path.stat().st_size > end:
            with path.open("r+b") as file:
                file.truncate(end)

    def append(self, row: dict[str, Any]) -> None:
        """Add a row at the end."""
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
        self.rows.append(row)
