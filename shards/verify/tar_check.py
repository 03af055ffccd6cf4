"""Verification of a block's tar: compares every member with the block's part of the index and its rows."""

import dataclasses
import hashlib
import itertools
import json
import tarfile
from collections.abc import Generator
from pathlib import Path
from typing import Any, BinaryIO

from shards.config.recipe import Recipe
from shards.format.images import OPENCV_LIMITS, BadPicture, measure_picture, read_member
from shards.format.tar import sample_json

_BLOCK = tarfile.BLOCKSIZE
_END = 2 * tarfile.BLOCKSIZE  # the zeros at the end of an archive
_STORED_AS = {"pixels": "npy", "jpg": "jpg"}
_CHUNK = 2**20


@dataclasses.dataclass(frozen=True)
class Difference:
    """A property of a file or of one of its pictures that isn't as expected."""

    file: str  # the file, relative to DIR
    key: str  # the picture's key; "" if the difference concerns the file as a whole
    what: str  # the property
    expected: object
    found: object

    def __str__(self) -> str:
        subject = f"{self.file}, {self.key}" if self.key else self.file
        return " ".join(f"{subject}: {self.what}: expected {self.expected}, found {self.found}".split())


def check_tar(
    path: Path, name: str, entries: list[dict[str, Any]], rows: list[dict[str, Any]], recipe: Recipe
) -> list[Difference]:
    """Read all of a tar and return what isn't as expected.

    `name` is the tar's name, relative to DIR; `entries` and `rows` are the block's rows of the index and of the list.
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


def check_pictures(path: Path, name: str, entries: list[dict[str, Any]], recipe: Recipe) -> list[Difference]:
    """Read the pictures of an indexed tar and return what isn't as expected; the tar may have other members."""
    differences: list[Difference] = []
    try:
        with path.open("rb") as file:
            for entry in entries:
                file.seek(entry["offset"])
                differences += _check_picture(name, file.read(entry["length"]), entry, recipe)
    except OSError as error:
        differences.append(Difference(name, "", "file", "readable", error.strerror))
    return differences


def _list_members(file: BinaryIO, name: str, differences: list[Difference]) -> list[tarfile.TarInfo]:
    """Read the headers, and check that padding and the archive's end are zeros."""
    members: list[tarfile.TarInfo] = []
    try:
        with tarfile.open(fileobj=file, mode="r:") as tar:
            members.extend(tar)
    except (tarfile.TarError, ValueError, EOFError) as error:
        last = members[-1].name if members else "none"
        differences.append(Difference(name, "", f"headers after {last}", "valid", error))
        return members
    end = max((_round_up(member.offset_data + member.size) for member in members), default=0)
    ends_of_padding = [*(member.offset for member in members[1:]), end]
    for member, padding_end in zip(members, ends_of_padding, strict=False):  # not strict: a tar may be empty
        if not _is_zero(file, member.offset_data + member.size, padding_end):
            differences.append(Difference(name, "", f"padding after {member.name}", "zeros", "something else"))
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
    """Check that the members are those of the index, each once and in its order."""
    keys = [entry["key"] for entry in entries]
    stored = [key for key, _ in itertools.groupby(member.name.partition(".")[0] for member in members)]
    expected = {f"{entry['key']}.{part}" for entry in entries for part in (entry["format"], "cls", "json")}
    seen: set[str] = set()
    for member in members:
        key = member.name.partition(".")[0]
        if not member.isreg() or member.name not in expected:
            yield Difference(name, key, "member", "none (it isn't in the index)", member.name)
        elif member.name in seen:
            yield Difference(name, key, "member", "once", f"{member.name} again at byte {member.offset}")
        seen.add(member.name)
    if set(stored) == set(keys) and stored != keys:
        key = next((one for one, other in zip(stored, keys, strict=False) if one != other), stored[-1])
        yield Difference(name, key, "order", "that of the index", "another")


def _check_sample(
    file: BinaryIO,
    name: str,
    entry: dict[str, Any],
    row: dict[str, Any] | None,
    members: dict[str, tarfile.TarInfo],
    recipe: Recipe,
) -> Generator[Difference]:
    """Check one sample: the position and the bytes of its picture, its label and its JSON."""
    key = entry["key"]
    missing = [part for part in (entry["format"], "cls", "json") if f"{key}.{part}" not in members]
    if missing:
        yield Difference(name, key, "members", "present", f"no {', no '.join(missing)}")
        return
    picture = members[f"{key}.{entry['format']}"]
    for what, found in (("offset", picture.offset_data), ("length", picture.size)):
        if entry[what] != found:
            yield Difference(name, key, f"{what} in the tar's header", found, f"{entry[what]} in the index")
    yield from _check_picture(name, _read(file, picture), entry, recipe)
    if row is None:
        return  # the comparison with the outcomes reports the additional row
    label, metadata = _read(file, members[f"{key}.cls"]), _read(file, members[f"{key}.json"])
    if label != str(row["label"]).encode():
        yield Difference(name, key, "cls", row["label"], repr(label[:20]))
    wanted = sample_json(row)
    try:
        is_same = json.loads(metadata) == wanted
    except ValueError:
        is_same = False
    if not is_same:
        yield Difference(name, key, "json", json.dumps(wanted)[:200], metadata[:200].decode(errors="replace"))


def _read(file: BinaryIO, member: tarfile.TarInfo) -> bytes:
    file.seek(member.offset_data)
    return file.read(member.size)


def _check_picture(name: str, content: bytes, entry: dict[str, Any], recipe: Recipe) -> list[Difference]:
    """Hash and decode a picture of a tar, and return each property that differs from the index."""
    digest = hashlib.sha256(content).hexdigest()
    if digest != entry["sha256"]:
        return [Difference(name, entry["key"], "sha256", entry["sha256"], digest)]
    stored_as = _STORED_AS.get(recipe.encode_format)
    try:
        if stored_as is None:
            found_format, width, height = measure_picture(content, OPENCV_LIMITS)
        else:
            found_format = stored_as
            height, width, _ = read_member(content, stored_as).shape
    except BadPicture as error:
        return [Difference(name, entry["key"], "picture", "one that can be decoded", error)]
    size = recipe.image_size
    checks = [("format", entry["format"], found_format), ("width", entry["width"], width)]
    checks.append(("height", entry["height"], height))
    if stored_as is not None:
        checks.append(("size", f"{size}x{size}", f"{width}x{height}"))
    return [Difference(name, entry["key"], *check) for check in checks if check[1] != check[2]]
