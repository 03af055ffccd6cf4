"""What a check has found."""

import dataclasses
from typing import Literal, TypeAlias

Level: TypeAlias = Literal["ok", "warning", "failed"]


@dataclasses.dataclass(frozen=True)
class Finding:
    """The result of a check."""

    name: str  # what was checked
    level: Level
    found: str
    remedy: str = ""  # what to do; empty if all is well

    def __str__(self) -> str:
        remedy = f"; {self.remedy}" if self.remedy else ""
        return f"{self.level:8} {self.name:14} {self.found}{remedy}"


def gigabytes(size: float) -> str:
    """Return a number of bytes in gigabytes."""
    return f"{size / 1e9:,.1f} GB"
