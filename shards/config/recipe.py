"""What a DIR is made from: the list, and the settings that select its rows and determine its pictures."""

import dataclasses
from typing import Any

from shards.format.index import IndexMetadata

_MAY_GROW = frozenset({"list_sha256", "images", "classes", "list_lengths"})
_FOUND_IN_LIST = "several_labels"  # not known before the list is read
_STORED_IF_SET = frozenset({"label_separator", _FOUND_IN_LIST})


@dataclasses.dataclass(frozen=True)
class Recipe:
    """What a DIR is made from. An assembly continues with an equal recipe, and is refused with another one."""

    list_sha256: str  # sha256 of the list as read, hex
    images: int  # number of rows asked for; -1 is all
    seed: int  # of the row order, and of a random split
    labels: int | None  # only rows whose label is below this are used; None for all
    test_share: float  # fraction of the rows in the test split of a random split
    encode_format: str  # original, pixels or jpg
    image_size: int  # side in pixels of resized pictures; 0 for originals
    rows_per_shard: int  # number of rows in a block
    classes: tuple[str, ...] = ()  # class names in label order; empty if none were given and the list hasn't been read
    split: str = "official"  # or by_owner; DIRs written before there was a choice don't store it
    list_lengths: tuple[int, ...] = ()  # number of rows of the list at first, and each time after it had grown
    url_col: str = "image_url"  # name of the list's column of URLs
    label_col: str | None = "label"  # name of the list's column of labels; None if the pictures have no labels
    indexed: bool = False  # whether DIR has links to existing tars, made by the index command
    # By split, the number of rows in each tar, if they differ because existing tars were indexed.
    rows_of_tars: dict[str, list[int]] = dataclasses.field(default_factory=dict[str, list[int]])
    local: bool = False  # whether the column of URLs has paths of local files, relative to the list's folder
    # These two are stored only if they are set, so that the files of other DIRs stay the same.
    label_separator: str | None = None  # between the labels in a text; None if a text is one label
    several_labels: bool = False  # whether a row of the list has a list of labels

    def difference(self, other: "Recipe") -> str | None:
        """Return the first field that differs, in words, or None; ignore classes if the other names none.

        The list and the number of its rows may differ, because both can grow.
        """
        if self.indexed != other.indexed:
            return "existing tars by the index command" if self.indexed else "a list, not from existing tars"
        for field in dataclasses.fields(self):
            mine, others = getattr(self, field.name), getattr(other, field.name)
            if field.name not in {*_MAY_GROW, _FOUND_IN_LIST} and mine != others:
                return f"{field.name} {str(mine)[:80]}, not {str(others)[:80]}"
        if other.classes and self.classes != other.classes[: len(self.classes)]:
            return f"the classes {', '.join(self.classes)[:80]}, not {', '.join(other.classes)[:80]}"
        return None

    def to_json(self) -> dict[str, Any]:
        """Return the fields to store."""
        fields = dataclasses.asdict(self)
        return {name: value for name, value in fields.items() if value or name not in _STORED_IF_SET}

    @property
    def index_metadata(self) -> IndexMetadata:
        """The metadata of index.parquet."""
        return IndexMetadata(self.classes, self.encode_format, self.image_size, self.list_sha256, self.seed)
