"""Packs the pictures of a solver's list files and databases into shards."""

import dataclasses
import hashlib
import itertools
import shutil
from collections.abc import Iterable
from pathlib import Path

import pyarrow.parquet as pq

from shards.format import ShardsError, counted
from shards.format.caffe_list import parse_caffe_list
from shards.format.index import INDEX_FILE
from shards.format.outcomes import OUTCOMES_FILE, Status
from shards.format.text import find_file
from stylefinetune.caffe.database import Database
from stylefinetune.caffe.net import ImageList, NetConfig
from stylefinetune.caffe.solver import read_solver_nets
from stylefinetune.config.schema import Config
from stylefinetune.errors import UserError

_MAX_LISTED = 20  # pictures in a message


@dataclasses.dataclass(frozen=True)
class SolverPicture:
    """A line of a list file of a solver's net, or an entry of its database."""

    split: str
    source: str  # the list file or the database
    line: int  # or number of the entry, from 1
    path: str  # with root_folder; of an entry, the file to which it is copied to be packed
    label: int
    database: Database | None = None

    def __str__(self) -> str:
        return (
            f"{self.source}, picture {self.line}" if self.database else f"{self.source}, line {self.line}: {self.path}"
        )

    def read(self) -> bytes:
        """Return the bytes of the picture.

        Raises:
            UserError: the database can't be read.
            OSError: the file can't be read.
        """
        if self.database is None:
            return find_file(self.path).read_bytes()
        return next(iter(self.database.pictures(self.line - 1)))


@dataclasses.dataclass(frozen=True)
class SolverLists:
    """The list files and databases of a solver's nets, and the folder of their shards."""

    shards: Path  # its name is a hash of the lists, so a changed list is packed again
    pictures: list[SolverPicture]  # by split
    num_classes: int  # outputs of the nets' last layer

    @property
    def texts(self) -> dict[str, str]:
        """The content of a list file of each split, with root_folder before each path."""
        return _texts(self.pictures)

    @property
    def is_packed(self) -> bool:
        """Whether the shards have all of the pictures."""
        return _kept_rows(self.shards) == [(one.split, one.path, one.label) for one in self.pictures]


def find_solver_lists(config: Config) -> SolverLists:
    """Read the lists of `config.solver`.

    Raises:
        UserError: a file can't be read, or a line of it isn't a path and a label of the net.
    """
    assert config.solver is not None
    net = read_solver_nets(Path(config.solver))
    sources = {config.data.split: net.train}
    if config.data.test.split and net.test:
        sources[config.data.test.split] = net.test
    pictures: list[SolverPicture] = []
    for split, source in sources.items():
        copies = Path(config.run_dir) / "shards" / "lmdb"
        pictures += _read_database(split, source, net, copies) if source.is_database else _read_list(split, source, net)
    texts = dict.fromkeys(sources, "") | _texts(pictures)
    digest = hashlib.sha256(repr((sorted(texts.items()), net.num_classes)).encode()).hexdigest()
    return SolverLists(Path(config.run_dir) / "shards" / digest[:16], pictures, net.num_classes)


def _read_list(split: str, images: ImageList, net: NetConfig) -> list[SolverPicture]:
    source = images.source
    try:
        listed = parse_caffe_list(find_file(source).read_bytes(), source, net.num_classes)
    except OSError as error:
        raise UserError(f"{source}: the net's list can't be read: {error.strerror}") from error
    except ShardsError as error:
        raise UserError(f"{error}; {_outputs(net)}") from error
    if not listed:
        raise UserError(f"{source}: the net's list has no pictures")
    return [SolverPicture(split, source, one.line, f"{images.root_folder}{one.path}", one.label) for one in listed]


def _read_database(split: str, images: ImageList, net: NetConfig, copies: Path) -> list[SolverPicture]:
    """Return the entries of a database; `copies` is the folder of the files that are made of them."""
    database = Database(find_file(images.source))
    folder = copies / database.version() / split  # another one if the database changes
    pictures: list[SolverPicture] = []
    for number, (key, label) in enumerate(database.labels(), start=1):
        if not 0 <= label < net.num_classes:
            raise UserError(f"{images.source}, key {key}: the label is {label}; {_outputs(net)}")
        path = str(folder / f"{number:08d}")
        pictures.append(SolverPicture(split, images.source, number, path, label, database))
    if not pictures:
        raise UserError(f"{images.source}: the net's database has no pictures")
    return pictures


def _outputs(net: NetConfig) -> str:
    return f"the net's last layer {net.last_layer} has {net.num_classes} outputs"


def _texts(pictures: list[SolverPicture]) -> dict[str, str]:
    lines: dict[str, list[str]] = {}
    for picture in pictures:
        lines.setdefault(picture.split, []).append(f"{picture.path} {picture.label}\n")
    return {split: "".join(listed) for split, listed in lines.items()}


def check_files_exist(lists: SolverLists) -> None:
    """Check that all pictures of the lists exist, which takes seconds, while packing them may take hours.

    Raises:
        UserError: pictures are missing; the message names the first ones.
    """
    listed = (picture for picture in lists.pictures if picture.database is None)
    missing = [str(picture) for picture in listed if not find_file(picture.path).is_file()]
    if missing:
        raise UserError(_join("can't be found; fix the lists or root_folder", missing))


def pack_solver_lists(lists: SolverLists) -> None:
    """Pack the original pictures of the lists into shards, unless that is done already.

    Pictures that can't be used are named. Once they are replaced, only they are packed; if their lines are removed
    instead, the shards are used as they are.

    Raises:
        UserError: pictures are missing or invalid; the message names the first ones.
    """
    if lists.is_packed or _take_over_shards(lists):
        return
    # These load the crawler, which a run without --solver does not need.
    from rich.console import Console  # noqa: PLC0415

    from shards.assembly.assemble import assemble  # noqa: PLC0415
    from shards.config.schema import AssembleConfig  # noqa: PLC0415

    folder = lists.shards.with_name(f"{lists.shards.name}.lists")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "classes.txt").write_text("".join(f"{label}\n" for label in range(lists.num_classes)), encoding="utf-8")
    for split, text in lists.texts.items():
        (folder / f"{split}.txt").write_text(text, encoding="utf-8")
    sources = [f"{split}={folder / split}.txt" for split in lists.texts]
    settings = AssembleConfig(
        list=sources, out=lists.shards, classes=str(folder / "classes.txt"), workers=-1, retry="failed"
    )
    copied = _copy_entries(lists.pictures)
    try:
        assemble(settings, Console(stderr=True))
    except ShardsError as error:
        raise UserError(f"the net's pictures can't be packed: {error}") from error
    columns = ["row", "status", "message"]
    outcomes = pq.read_table(lists.shards / OUTCOMES_FILE, columns=columns).sort_by("row").to_pylist()
    failed = [
        f"{picture}: {outcome['status']}, {outcome['message']}"
        for picture, outcome in zip(lists.pictures, outcomes, strict=True)
        if outcome["status"] != Status.KEPT
    ]
    if failed:
        remedy = "replace each or remove its line, and run the same command again; the others stay packed"
        raise UserError(_join(f"can't be used; {remedy}", failed))
    for path in copied:
        shutil.rmtree(path)


def _copy_entries(pictures: Iterable[SolverPicture]) -> set[Path]:
    """Copy the pictures of databases to the files that are packed, unless they are there; return the files' folders."""
    folders: set[Path] = set()
    for database, group in itertools.groupby(pictures, key=lambda picture: picture.database):
        if database is None:
            continue
        entries = list(group)
        folder = Path(entries[0].path).parent
        folder.mkdir(parents=True, exist_ok=True)
        folders.add(folder)
        done = sum(1 for path in folder.iterdir() if path.suffix == "")
        for entry, body in zip(entries[done:], database.pictures(done), strict=True):
            draft = folder / "next.part"
            draft.write_bytes(body)
            draft.replace(entry.path)
    return folders


def _take_over_shards(lists: SolverLists) -> bool:
    """Rename the shards of an earlier version of the lists if they have the same pictures.

    That is the case if the user has removed the lines of pictures that could not be packed.
    """
    earlier = (path.parent for path in sorted(lists.shards.parent.glob(f"*/{INDEX_FILE}")))
    for shards in earlier:
        if shards != lists.shards and dataclasses.replace(lists, shards=shards).is_packed and not lists.shards.exists():
            shards.rename(lists.shards)
            return True
    return False


def _kept_rows(shards: Path) -> list[tuple[str, str, int]] | None:
    """Return the split, path and label of each packed picture, in the lists' order; None without an index."""
    if not (shards / INDEX_FILE).is_file():
        return None
    columns = ["row", "split", "image_url", "label", "status"]
    outcomes = pq.read_table(shards / OUTCOMES_FILE, columns=columns).sort_by("row").to_pylist()
    return [(row["split"], row["image_url"], row["label"]) for row in outcomes if row["status"] == Status.KEPT]


def _join(problem: str, pictures: list[str]) -> str:
    """Return a message that lists pictures, one a line."""
    more = [f"and {len(pictures) - _MAX_LISTED:,} more"] if len(pictures) > _MAX_LISTED else []
    count = counted(len(pictures), "picture")
    return "\n  ".join([f"{count} of the net's lists {problem}:", *pictures[:_MAX_LISTED], *more])
