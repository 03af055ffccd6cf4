"""The settings of the index command, typed and checked."""

import dataclasses
from pathlib import Path

from shards.errors import ConfigError
from shards.indexing.scan_tar import LabelFrom, ScanRules
from shards.url_list.source import SPLIT_NAME


@dataclasses.dataclass(frozen=True)
class IndexConfig:
    """The settings of `index`.

    Attributes:
        tars: paths, folders, *.tar, shard-{000..099}.tar, or URLs of tars, which are copied to DIR/tars.
        out: folder of the index and of links to the tars.
        label_from: the member that has the label: cls, json or txt; folder is the folder in the key, or else that of
            the tar; none is for pictures without labels.
        label_key: key of the label in the JSON member; a.b is the key b of the object at a.
        classes: file with one class name per line, in label order.
        picture_ext: extension of the pictures, if samples have several; for example jpg, or rgb.png.
        split: split of all tars. By default, it is found in the names of their folders or files, such as train and
            val, if each has one; otherwise it is drawn for each picture.
        test_share: fraction of the pictures in the test split of a random split.
        seed: seed of a random split.
        workers: number of processes that read tars; -x means all cores but x.
    """

    tars: tuple[str, ...]
    out: Path
    label_from: LabelFrom | None = None
    label_key: str | None = None
    classes: str | None = None
    picture_ext: str | None = None
    split: str | None = None
    test_share: float = 0.2
    seed: int = 831486
    workers: int = -1

    def __post_init__(self) -> None:
        if self.label_key is not None and self.label_from not in {None, "json"}:
            raise ConfigError(f"label_key is for label_from json, not {self.label_from}; give one of them")
        if self.label_key is None and self.label_from == "json":
            raise ConfigError("label_from json needs the key of the label in the JSON: --label_key KEY")
        if self.split is not None and not SPLIT_NAME.fullmatch(self.split):
            raise ConfigError(f"split is {self.split[:60]!r}; use only letters, digits, _ and -")
        if not 0 <= self.test_share < 1:
            raise ConfigError(f"test_share is {self.test_share}; it must be at least 0 and below 1")
        if self.workers == 0:
            raise ConfigError("workers is 0; it must be a number of processes, or -x for all cores but x")

    @property
    def rules(self) -> ScanRules:
        """Where labels and pictures are."""
        source: LabelFrom = self.label_from or ("json" if self.label_key else "cls")
        extension = self.picture_ext and self.picture_ext.lower().removeprefix(".")
        return ScanRules(source, self.label_key, extension)
