"""A block's tar, read again member by member and held against what its index and its list say."""

import dataclasses
import hashlib
import itertools
import json
import tarfile
from collections.abc import Generator, Iterable
from pathlib import Path
from typing import Any, BinaryIO

from shards.format.images import BadPicture, measure_picture, read_member
from shards.storage.shard_dir import Recipe

_BLOCK = tarfile.BLOCKSIZE
_END = 2 * tarfile.BLOCKSIZE  # zeros that end an archive
_STORED_AS = {"pixels": "npy", "jpg": "jpg"}
_CHUNK = 2**20


@dataclasses.dataclass(frozen=True)
class Difference:
    """Something that isn't as it should be.

    Attributes:
        where: the file, relative to DIR.
        key: the picture's, or "" where it is about the whole file.
        what: the property.
        expected: what it should be.
        found: what it is.
    """

    where: str
    key: str
    what: str
    expected: object
    found: object

    def __str__(self) -> str:
        place = f"{self.where}, {self.key}" if self.key else self.where
        return " ".join(f"{place}: {self.what}: expected {self.expected}, found {self.found}".split())


def check_tar(
    path: Path, name: str, entries: list[dict[str, Any]], rows: list[dict[str, Any]], recipe: Recipe
) -> list[Difference]:
    """Reads a tar whole and returns what isn't as it should be.

    Args:
        path: the tar.
        name: what it is called within DIR.
        entries: the block's rows of the index.
        rows: the block's rows of the list.
        recipe: what DIR is made from.
    """
    differences: list[Difference] = []
    try:
        with path.open("rb") as file:
            members = _list_members(file, name, differences)
            differences += _check_names(name, entries, members)
            by_name = {member.name: member for member in members}
            listed = {row["row"]: row for row in rows}
            for entry in entries:
                differences += _check_sample(file, name, entry, listed.get(entry["row"]), by_name, recipe)
    except OSError as error:
        differences.append(Difference(name, "", "file", "readable", error.strerror))
    return differences


def _list_members(file: BinaryIO, name: str, differences: list[Difference]) -> list[tarfile.TarInfo]:
    """Walks the headers; what follows the last one it can read must be an archive's end."""
    members: list[tarfile.TarInfo] = []
    try:
        with tarfile.open(fileobj=file, mode="r:") as tar:
            members.extend(tar)
    except (tarfile.TarError, ValueError, EOFError) as error:
        last = members[-1].name if members else "none"
        differences.append(Difference(name, "", f"headers after {last}", "whole", error))
        return members
    end = max((_round_up(member.offset_data + member.size) for member in members), default=0)
    for before, member in itertools.pairwise([*members, None]):
        assert before is not None
        until = member.offset if member else _round_up(before.offset_data + before.size)
        if not _is_zero(file, before.offset_data + before.size, until):
            differences.append(Difference(name, "", f"padding after {before.name}", "zeros", "something else"))
    size = file.seek(0, 2)
    if size - end < _END or not _is_zero(file, end, size):
        last = members[-1].name if members else "none"
        found = f"{size - end} bytes, no valid header" if size - end >= _END else f"the file's end at byte {size}"
        differences.append(Difference(name, "", f"what follows {last}", "the archive's end", found))
    return members


def _is_zero(file: BinaryIO, start: int, end: int) -> bool:
    file.seek(start)
    while start < end:
        chunk = file.read(min(_CHUNK, end - start))
        if not chunk or chunk.strip(b"\0"):
            return False
        start += len(chunk)
    return True


def _round_up(size: int) -> int:
    return -(-size // _BLOCK) * _BLOCK


def _check_names(name: str, entries: list[dict[str, Any]], members: list[tarfile.TarInfo]) -> Generator[Difference]:
    """Checks that the samples' names are those of the index, each once, in its order."""
    wanted = [entry["key"] for entry in entries]
    stored = [key for key, _ in itertools.groupby(member.name.partition(".")[0] for member in members)]
    expected = {f"{entry['key']}.{part}" for entry in entries for part in (entry["format"], "cls", "json")}
    seen: set[str] = set()
    for member in members:
        key = member.name.partition(".")[0]
        if not member.isreg() or member.name not in expected:
            yield Difference(name, key, "member", "none that the index doesn't name", member.name)
        elif member.name in seen:
            yield Difference(name, key, "member", "once", f"{member.name} again at byte {member.offset}")
        seen.add(member.name)
    if set(stored) == set(wanted) and stored != wanted:
        key = next((one for one, other in zip(stored, wanted, strict=False) if one != other), stored[-1])
        yield Difference(name, key, "order", "that of the index", "another")


def _check_sample(
    file: BinaryIO,
    name: str,
    entry: dict[str, Any],
    row: dict[str, Any] | None,
    members: dict[str, tarfile.TarInfo],
    recipe: Recipe,
) -> Generator[Difference]:
    """Checks one sample: where its picture lies, its bytes, and what stands beside it."""
    key = entry["key"]
    lost = [part for part in (entry["format"], "cls", "json") if f"{key}.{part}" not in members]
    if lost:
        yield Difference(name, key, "members", "there", f"no {', no '.join(lost)}")
        return
    picture = members[f"{key}.{entry['format']}"]
    for what, found in (("offset", picture.offset_data), ("length", picture.size)):
        if entry[what] != found:
            yield Difference(name, key, f"{what} as the tar's header has it", found, f"{entry[what]} in the index")
    body = _read(file, picture)
    digest = hashlib.sha256(body).hexdigest()
    if digest == entry["sha256"]:
        yield from (Difference(name, key, *finding) for finding in _check_picture(body, entry, recipe))
    else:
        yield Difference(name, key, "sha256", entry["sha256"], digest)
    if row is None:
        return  # the ledger's part tells that the index has a row too many
    label, further = _read(file, members[f"{key}.cls"]), _read(file, members[f"{key}.json"])
    if label != str(row["label"]).encode():
        yield Difference(name, key, "cls", row["label"], repr(label[:20]))
    wanted = {"image_url": row["image_url"]} | json.loads(row["extra"])
    try:
        is_same = json.loads(further) == wanted
    except ValueError:
        is_same = False
    if not is_same:
        yield Difference(name, key, "json", json.dumps(wanted)[:200], further[:200].decode(errors="replace"))


def _read(file: BinaryIO, member: tarfile.TarInfo) -> bytes:
    file.seek(member.offset_data)
    return file.read(member.size)


def _check_picture(body: bytes, entry: dict[str, Any], recipe: Recipe) -> Iterable[tuple[str, object, object]]:
    """Decodes a picture; returns each property that isn't the index's, as it should be and as it is."""
    stored_as = _STORED_AS.get(recipe.encode_format)
    try:
        if stored_as is None:
            found_format, width, height = measure_picture(body)
        else:
            found_format = stored_as
            height, width, _ = read_member(body, stored_as).shape
    except BadPicture as error:
        return [("picture", "one that decodes", error)]
    size = recipe.image_size
    checks = [("format", entry["format"], found_format), ("width", entry["width"], width)]
    checks.append(("height", entry["height"], height))
    if stored_as is not None:
        checks.append(("size", f"{size}x{size}", f"{width}x{height}"))
    return [check for check in checks if check[1] != check[2]]
