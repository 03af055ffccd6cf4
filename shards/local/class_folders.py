"""Lists the pictures of a folder that has a folder for each class, as torchvision's ImageFolder does."""

import dataclasses
import hashlib
import json
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from shards.errors import ShardsError, shorten
from shards.format.images import PICTURE_EXTENSIONS
from shards.format.text import decode_lines
from shards.local.splits import rename_splits, split_of

_SYSTEM_FILES = frozenset({"__MACOSX", "@eaDir", "$RECYCLE.BIN", "Thumbs.db", "desktop.ini"})
_OF_SHARDS = (".work", "blocks/rows.parquet")  # what a folder of shards has, when it is begun and later
_OTHER_FILES = "without a picture's extension"
_KEY_LENGTH = 60  # of a path; a hash may follow


@dataclasses.dataclass(frozen=True)
class FolderRules:
    """How the pictures of a folder are listed."""

    seed: int = 0  # of a random split
    test_share: float = 0.2  # fraction of each class in the test split of a random split
    follow_links: bool = False  # also follow symbolic links that lead out of the folder
    has_labels: bool = True  # False: the folders are not classes


@dataclasses.dataclass(frozen=True)
class ClassFolders:
    """The pictures of a folder, as a list."""

    listing: bytes  # JSON lines: id, image_url (the path relative to the folder), label and split
    classes: tuple[str, ...]  # sorted; empty without labels
    warnings: tuple[str, ...]  # what was skipped or is unusual, a line each


@dataclasses.dataclass(frozen=True)
class _Picture:
    path: str  # relative to the folder, with forward slashes
    label: str
    split: str  # "" if it is to be drawn


def list_class_folders(root: Path, rules: FolderRules) -> ClassFolders:
    """List root/CLASS/**/*.jpg, or root/train/CLASS/**/*.jpg and root/val/CLASS/**/*.jpg.

    Without folders of splits, or with train alone, `test_share` of each class is drawn as the split test, from the seed
    and the paths.

    Raises:
        ShardsError: there are no pictures, or no folders of classes; or a folder can't be read.
    """
    scan = _Scan(root, follow_links=rules.follow_links)
    pictures = _find_splits(scan, rules)
    if not pictures:
        raise ShardsError(f"--list {root}: {scan.explain_empty()}")
    if not all(picture.split for picture in pictures):
        pictures = _draw_splits(pictures, rules)
    classes = tuple(sorted({picture.label for picture in pictures})) if rules.has_labels else ()
    if len(classes) == 1:
        scan.warn(f"its only class is {classes[0]}; if the classes are its folders, give --list {root / classes[0]}")
    return ClassFolders(_to_json_lines(pictures, rules), classes, tuple(scan.warnings()))


def _find_splits(scan: "_Scan", rules: FolderRules) -> list[_Picture]:
    """Return the pictures of the folders of splits, or of the whole folder if it has none."""
    folders, loose = scan.read(scan.root)
    split_folders = {folder: split_of(folder.name) for folder in folders}
    splits = [split for split in split_folders.values() if split]
    if "train" not in splits or len(splits) < len(folders):
        found = _find_classes(scan, scan.root, "", rules)
        if rules.has_labels:
            _warn_of_splits(scan, split_folders, found)
        return found
    scan.skip_loose(loose)
    names = rename_splits(splits) if set(splits) != {"train"} else {"train": ""}  # a test split is drawn from it
    if names.get("val") == "test":
        val = next(folder for folder, split in split_folders.items() if split == "val")
        scan.warn(f"{val.name}/ is stored as the split test, on which training tests by default")
    found: list[_Picture] = []
    for folder, split in split_folders.items():
        if split:
            found += _find_classes(scan, folder, names[split], rules)
    return found


def _warn_of_splits(scan: "_Scan", folders: dict[Path, str | None], pictures: Iterable[_Picture]) -> None:
    """Warn if folders of classes, or folders within them, have the names of splits."""
    if _are_splits(folders.values()):
        others = [_to_text(folder.name) for folder, split in folders.items() if not split]
        scan.warn_names("the folders of splits are taken for classes; move the other folders elsewhere", others)
    inner = {picture.path.split("/")[1] for picture in pictures if picture.path.count("/") > 1}
    if _are_splits(map(split_of, inner)):
        scan.warn(f"the folders of splits within those of classes are ignored; move them to {scan.root}/train/CLASS")


def _are_splits(splits: Iterable[str | None]) -> bool:
    """Return whether train and another split are among these."""
    found = set(filter(None, splits))
    return "train" in found and len(found) > 1


def _find_classes(scan: "_Scan", folder: Path, split: str, rules: FolderRules) -> list[_Picture]:
    """Return the pictures in the folders of classes, or all pictures if the folders are not classes."""
    if not rules.has_labels:
        return [_Picture(path, "", split) for path in scan.walk(folder)]
    folders, loose = scan.read(folder)
    found: list[_Picture] = []
    empty: list[str] = []
    for class_folder in folders:
        name = _class_name(class_folder)
        pictures = [_Picture(path, name, split) for path in scan.walk(class_folder)]
        found += pictures
        if not pictures:
            empty.append(name)
    if loose and not found:
        raise ShardsError(
            f"--list {folder}: it has pictures, but no folders of classes with pictures; move them to "
            f"{folder}/CLASS/, or give --label_col null for pictures without labels"
        )
    scan.warn_names("folders without pictures", empty)
    scan.skip_loose(loose)
    return found


class _Scan:
    """Reads folders, and counts what is skipped."""

    def __init__(self, root: Path, *, follow_links: bool) -> None:
        self.root = root
        self._real_root = os.path.realpath(root)
        self._follow_links = follow_links
        self._skipped: dict[str, set[Path]] = {}  # by reason
        self._warnings: list[str] = []

    def read(self, folder: Path) -> tuple[list[Path], list[Path]]:
        """Return the folders and the pictures in a folder, sorted by name, and count what is skipped.

        Raises:
            ShardsError: it can't be read.
        """
        try:
            with os.scandir(folder) as found:
                entries = sorted(found, key=lambda entry: entry.name)
        except OSError as error:
            raise ShardsError(f"--list {self.root}: {folder}: {error.strerror}; the folder must be readable") from error
        folders: list[Path] = []
        pictures: list[Path] = []
        for entry in entries:
            path = folder / entry.name
            if entry.name.startswith(".") or entry.name in _SYSTEM_FILES:
                self._skip(path, "hidden")
            elif entry.is_symlink() and not self._may_follow(path):
                self._skip(path, "links out of the folder (--follow_links follows them)")
            elif os.path.isdir(path) if entry.is_symlink() else entry.is_dir():  # noqa: PTH112 -- a link to itself
                if not _has_shards(path):  # --out may be in the folder of pictures
                    folders.append(path)
            elif path.suffix[1:].lower() in PICTURE_EXTENSIONS:
                pictures.append(path)
            else:
                self._skip(path, _OTHER_FILES)
        return folders, pictures

    def walk(self, folder: Path, above: frozenset[str] = frozenset()) -> Iterator[str]:
        """Yield the paths of all pictures in a folder, relative to the root. A link to a folder above is skipped."""
        real = os.path.realpath(folder)
        if real in above or (folder != self.root and real == self._real_root):
            self._skip(folder, "links to a folder above")
            return
        folders, pictures = self.read(folder)
        for path in pictures:
            yield _to_text(path.relative_to(self.root).as_posix())
        for path in folders:
            yield from self.walk(path, above | {real})

    def _may_follow(self, link: Path) -> bool:
        try:
            target = os.path.realpath(link)
        except OSError:  # for example, a folder above the target can't be read
            return False
        return self._follow_links or os.path.commonpath([target, self._real_root]) == self._real_root

    def _skip(self, path: Path, reason: str) -> None:
        self._skipped.setdefault(reason, set()).add(path)

    def skip_loose(self, pictures: Iterable[Path]) -> None:
        """Skip pictures that are in no folder of a class."""
        for path in pictures:
            self._skip(path, "pictures outside of the folders of classes")

    def warn(self, line: str) -> None:
        """Add a warning."""
        self._warnings.append(line)

    def warn_names(self, what: str, names: list[str]) -> None:
        """Add a warning that lists names, if there are any."""
        if names:
            self.warn(f"{what}: {shorten(names)}")

    def warnings(self) -> list[str]:
        """Return all warnings."""
        skipped = [f"{len(paths):,} {reason}" for reason, paths in self._skipped.items() if reason != _OTHER_FILES]
        others = self._skipped.get(_OTHER_FILES)
        if others:
            kinds = Counter(path.suffix.lower() or "without any" for path in others)
            ordered = sorted(kinds.items(), key=lambda kind: (-kind[1], kind[0]))
            shown = shorten([f"{count:,} {kind}" for kind, count in ordered])
            skipped.append(f"{len(others):,} {_OTHER_FILES} ({shown})")
        return [*self._warnings, *([f"skipped {', '.join(skipped)}"] if skipped else [])]

    def explain_empty(self) -> str:
        """Return why the folder has no pictures."""
        reasons = self.warnings()
        shown = f" ({'; '.join(reasons)})" if reasons else ""
        layout = f"{self.root}/CLASS/*.jpg, or {self.root}/train/CLASS/*.jpg and {self.root}/val/CLASS/*.jpg"
        return f"it has no pictures{shown}; it must have a folder for each class: {layout}"


def _has_shards(folder: Path) -> bool:
    return any(os.path.exists(folder / name) for name in _OF_SHARDS)  # noqa: PTH110 -- Path.exists raises if it may not


def _draw_splits(pictures: Iterable[_Picture], rules: FolderRules) -> list[_Picture]:
    """Draw a share of each class as the split test, by a hash of the seed and the path."""
    by_label: dict[str, list[_Picture]] = {}
    for picture in pictures:
        by_label.setdefault(picture.label, []).append(picture)
    test: set[str] = set()
    for group in by_label.values():
        count = round(len(group) * rules.test_share)
        if rules.test_share and len(group) > 1:
            count = min(max(count, 1), len(group) - 1)
        drawn = sorted(group, key=lambda picture: _hash(f"{rules.seed} {picture.path}"))
        test.update(picture.path for picture in drawn[:count])
    return [
        dataclasses.replace(picture, split="test" if picture.path in test else "train")
        for group in by_label.values()
        for picture in group
    ]


def _to_json_lines(pictures: Sequence[_Picture], rules: FolderRules) -> bytes:
    lines: list[str] = []
    for picture, key in zip(pictures, _make_keys([picture.path for picture in pictures]), strict=True):
        row = {"id": key, "image_url": picture.path, "split": picture.split}
        lines.append(json.dumps(row | ({"label": picture.label} if rules.has_labels else {}), ensure_ascii=False))
    return "".join(f"{line}\n" for line in lines).encode()


def _make_keys(paths: Sequence[str]) -> list[str]:
    """Make keys from paths without their extensions; a hash follows if characters are lost or keys are equal."""
    cleaned = [re.sub(r"[^A-Za-z0-9_-]", "_", path.rpartition(".")[0].replace("/", "_")) for path in paths]
    counts = Counter(cleaned)
    keys: list[str] = []
    for path, key in zip(paths, cleaned, strict=True):
        is_exact = counts[key] == 1 and len(key) <= _KEY_LENGTH and key == path.rpartition(".")[0].replace("/", "_")
        keys.append(key if is_exact else f"{key[:_KEY_LENGTH]}-{_hash(path)[:12]}")
    return keys


def _to_text(name: str) -> str:
    """Return a file name as text that `find_file` finds again, if its bytes aren't UTF-8."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return decode_lines(os.fsencode(name))[0]
    return name


def _class_name(folder: Path) -> str:
    """Return the folder's name as a label: one line, without spaces around it."""
    return " ".join(filter(None, map(str.strip, _to_text(folder.name).splitlines())))


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
