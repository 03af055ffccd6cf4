"""Trains from Python."""

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from stylefinetune.train import main


@dataclasses.dataclass(frozen=True)
class Run:
    """A run that has ended."""

    path: Path  # RUN

    @property
    def best(self) -> str:
        """The name of the best tested checkpoint, for `evaluate`, `predict` and `load`."""
        return f"{self.path}:best"

    @property
    def last(self) -> str:
        """The name of the last checkpoint."""
        return f"{self.path}:last"

    def metrics(self, phase: str) -> list[dict[str, Any]]:
        """Return the lines of metrics.jsonl of a phase, train or test, such as {"iteration": 0, "loss": 3.01, ...}."""
        lines = (self.path / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
        return [entry for entry in map(json.loads, lines) if entry["phase"] == phase]


def fine_tune(
    run_dir: str | Path, shards: str | Path | None, config: str | Path | None, settings: dict[str, Any]
) -> Run:
    """See `stylefinetune.fine_tune`."""
    arguments = [f"--config={config}"] if config is not None else []
    arguments += [f"--{key}={value}" for key, value in _flatten(settings)]
    if shards is not None:
        arguments.append(f"--data.shards={shards}")
    main([*arguments, f"--run_dir={run_dir}"])
    return Run(Path(run_dir))


def _flatten(settings: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Yield the dotted keys of nested settings, and their values as flags take them."""
    for name, value in settings.items():
        key = f"{prefix}{name}"
        if isinstance(value, dict) and key != "deepspeed.extra":
            yield from _flatten(value, f"{key}.")
        else:
            yield key, str(value) if isinstance(value, str | Path) else json.dumps(value)
