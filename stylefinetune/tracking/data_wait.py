"""Warns once if training keeps waiting for pictures."""

from stylefinetune.config.data import DataConfig

FRACTION = 0.1  # of the training time
DISPLAYS = 5  # in a row; the first ones of a process include the start of the workers


class DataWaitWarning:
    """Counts the displays at which the wait for data was long."""

    def __init__(self, config: DataConfig) -> None:
        self._config = config
        self._waits: list[float] = []
        self._has_warned = False

    def check(self, data_wait: float) -> str | None:
        """Return the warning if `data_wait`, a fraction, is the last of enough long ones."""
        self._waits = [*self._waits, data_wait] if data_wait > FRACTION else []
        if self._has_warned or len(self._waits) < DISPLAYS:
            return None
        self._has_warned = True
        return f"Training waits for pictures {sum(self._waits) / DISPLAYS:.0%} of the time: {self._remedy()}"

    def _remedy(self) -> str:
        if self._config.workers == 0:
            return "it decodes them itself; raise data.workers (now 0)"
        remedies = [
            f"raise data.workers (now {self._config.workers} per rank) if there are idle CPU cores",
            "store smaller pictures (shards repack)",
        ]
        if not self._config.stage_dir and "://" not in self._config.shards:
            remedies.append("or, on a network file system, copy the shards to local disks (data.stage_dir)")
        return f"decoding or reading is too slow; {', '.join(remedies)}"
