"""Checks of DIR's Parquet files; index.parquet and outcomes.parquet are read a part at a time."""

from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from shards.format.index import INDEX_FILE, METADATA_KEY, index_schema
from shards.format.outcomes import OUTCOMES_FILE, OUTCOMES_SCHEMA, Status
from shards.format.parts import read_parts
from shards.format.repeats import Hashes, find_repeats, hash_texts, is_among
from shards.storage.shard_dir import ShardDir
from shards.verify.row_comparison import RowComparison, find_repeated, skip_rows
from shards.verify.tar_check import Difference

_STATUSES = [*map(str, Status)]
_COMPARED_STATUSES = (Status.KEPT, Status.DUPLICATE)  # of rows that may have the picture of an earlier row
_READ_ERRORS = (OSError, ValueError, pa.ArrowException)


def read_table(root: Path, name: str, schema: pa.Schema, differences: list[Difference]) -> pa.Table | None:
    """Read a Parquet file of a known schema; return None and add a difference if it isn't one."""
    if _check_schema(root, name, schema, differences) is None:
        return None
    try:
        table = pq.read_table(root / name)
        table.validate(full=True)
    except _READ_ERRORS as error:
        differences.append(_unreadable(name, error))
        return None
    return table


def _check_schema(root: Path, name: str, schema: pa.Schema, differences: list[Difference]) -> pa.Schema | None:
    """Return a file's schema; return None and add a difference if it has another one."""
    path = root / name
    if not path.is_file():
        found = f"none; make it with: shards finalize {root}"
        differences.append(Difference(name, "", "file", "present", found))
        return None
    try:
        found = pq.read_schema(path)
    except _READ_ERRORS as error:
        differences.append(_unreadable(name, error))
        return None
    if not found.equals(schema):
        differences.append(Difference(name, "", "columns", _describe(schema), _describe(found)))
        return None
    return found


def _unreadable(name: str, error: Exception) -> Difference:
    return Difference(name, "", "file", "Parquet", str(error).partition("\n")[0])


def _describe(schema: pa.Schema) -> str:
    return ", ".join(f"{field.name} {field.type}{'' if field.nullable else '!'}" for field in schema)


class JoinedFile:
    """A file that has the rows of all blocks' parts.

    Args:
        root: DIR.
        name: name of the file.
        schema: schema that it must have.
        columns: columns that it has from the parts.
        unread: rows that are not compared, since their block can't be read; it may grow while the blocks are read.
    """

    def __init__(self, root: Path, name: str, schema: pa.Schema, columns: Sequence[str], unread: set[int]) -> None:
        self._path = root / name
        self._name = name
        self._unread = unread
        self._failure: list[Difference] = []  # why it can't be read
        found = _check_schema(root, name, schema, self._failure)
        self.metadata: dict[bytes, bytes] = (found.metadata or {}) if found else {}
        self._comparison = RowComparison(name, columns, schema, self._read(), unread)

    def expect(self, part: pa.Table) -> None:
        """Compare the next rows with a block's part."""
        if not self._failure:
            try:
                self._comparison.expect(part)
            except _READ_ERRORS as error:
                self._failure = [_unreadable(self._name, error)]

    def finish(self, read_expected: Callable[[], Iterable[pa.Table]]) -> list[Difference]:
        """Return all differences; `read_expected` returns the parts of all blocks again."""
        if not self._failure:
            try:
                differences = self._comparison.finish(read_expected)
                keys = find_repeated(self._name, "key", self._read_keys)
                return [*self._check_metadata(), *differences, *keys, *self._check_duplicates()]
            except _READ_ERRORS as error:
                self._failure = [_unreadable(self._name, error)]
        return self._failure

    def count(self) -> int:
        """Return the number of its rows; 0 if it can't be read."""
        return 0 if self._failure else pq.read_metadata(self._path).num_rows

    def _check_metadata(self) -> Iterator[Difference]:
        yield from ()

    def _check_duplicates(self) -> Iterator[Difference]:
        yield from ()

    def _read_keys(self) -> Iterator[pa.ChunkedArray]:
        for part in self._read(["row", "key"]):
            yield skip_rows(part, self._unread).column("key")

    def _read(self, columns: Sequence[str] | None = None) -> Generator[pa.Table]:
        for part in read_parts(self._path, columns):
            part.validate(full=True)
            yield part.replace_schema_metadata(None)


class JoinedIndex(JoinedFile):
    """index.parquet, which also has metadata."""

    def __init__(self, shard_dir: ShardDir, unread: set[int]) -> None:
        schema = index_schema(several_labels=shard_dir.recipe.several_labels)
        super().__init__(shard_dir.root, INDEX_FILE, schema, schema.names, unread)
        self._expected_metadata = shard_dir.recipe.index_metadata.to_bytes()

    def _check_metadata(self) -> Iterator[Difference]:
        found = self.metadata.get(METADATA_KEY, b"")
        if found != self._expected_metadata:
            expected = self._expected_metadata.decode()
            yield Difference(INDEX_FILE, "", "metadata", expected, found.decode(errors="replace"))


class JoinedOutcomes(JoinedFile):
    """outcomes.parquet, which also has the duplicates among all rows."""

    def __init__(self, root: Path, unread: set[int]) -> None:
        columns = [column for column in OUTCOMES_SCHEMA.names if column != "duplicate_of"]
        super().__init__(root, OUTCOMES_FILE, OUTCOMES_SCHEMA, columns, unread)

    def _check_duplicates(self) -> Iterator[Difference]:
        """Compare the duplicates with the hashes of the bodies."""
        repeats = find_repeats(hash_texts(part.column("sha256")) for part in self._read(["sha256"]))
        first = self._find_first(repeats)
        for part in self._read(["row", "key", "status", "sha256", "duplicate_of"]):
            is_repeated = is_among(hash_texts(part.column("sha256")), repeats)
            is_known = np.isin(part.column("status").to_pylist(), _STATUSES)
            has_original = part.column("duplicate_of").is_valid().to_numpy()
            for row in part.filter(pa.array(is_repeated | has_original | ~is_known)).to_pylist():
                if row["status"] not in _STATUSES:
                    yield Difference(self._name, row["key"], "status", "one of the closed set", row["status"])
                original = None
                if row["status"] in _COMPARED_STATUSES:
                    original = first.get(row["sha256"])
                expected = None if original == row["row"] else original
                if row["duplicate_of"] != expected:
                    yield Difference(self._name, row["key"], "duplicate_of", expected, row["duplicate_of"])

    def _find_first(self, repeats: Hashes) -> dict[str, int]:
        """Return the first kept row in the list of each body that occurs more than once."""
        first: dict[str, int] = {}
        for part in self._read(["row", "status", "sha256"]):
            is_kept = np.array(part.column("status").to_pylist()) == Status.KEPT
            is_chosen = is_kept & is_among(hash_texts(part.column("sha256")), repeats)
            chosen = part.filter(pa.array(is_chosen, pa.bool_()))
            rows: list[int] = chosen.column("row").to_pylist()
            for digest, row in zip(chosen.column("sha256").to_pylist(), rows, strict=True):
                first[digest] = min(row, first.get(digest, row))
        return first
