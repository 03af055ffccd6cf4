"""Every knob of an assembly, typed, from a YAML file and flags."""

import dataclasses
import math
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from shards.errors import ConfigError


@dataclasses.dataclass(frozen=True)
class Rewrite:
    r"""One rule.

    Attributes:
        match: regular expression that a URL's beginning must match.
        replace: what that beginning becomes, \1 being the first group.
    """

    match: str
    replace: str

    def find_fault(self) -> str | None:
        """Says in one line what is wrong with it, or None."""
        try:
            re.sub(self.match, self.replace, "")  # compiles both
        except (re.error, IndexError) as error:
            return f"match {self.match!r} and replace {self.replace!r} make no rule: {error}"
        return None


EncodeFormat = Literal["original", "pixels", "jpg"]
Split = Literal["official", "by_owner"]

MAX_IMAGE_SIZE = 4096  # 48 MiB of pixels a picture


@dataclasses.dataclass(frozen=True)
class Partition:
    """One task's share of a DIR's blocks: those whose place among all of them is `index` modulo `count`.

    Attributes:
        index: from 0.
        count: how many tasks there are.
    """

    index: int
    count: int

    @classmethod
    def parse(cls, text: str) -> "Partition":
        """Reads i/n.

        Raises:
            ConfigError: it is something else.
        """
        found = re.fullmatch(r"([0-9]{1,6})/([0-9]{1,6})", text)
        partition = cls(int(found[1]), int(found[2])) if found else cls(0, 0)
        if partition.index >= partition.count:
            raise ConfigError(f"partition is {text}; it must be i/n with i from 0 to n - 1, such as 0/16")
        return partition


@dataclasses.dataclass(frozen=True)
class AssembleConfig:
    """An assembly: which pictures, from where, into what.

    Attributes:
        list: CSV, CSV.gz, Parquet or JSON lines, as a path or http(s) URL; or flickr_style, the official list; or
            Caffe list files of local paths, --list train=train.txt --list test=test.txt.
        out: folder of the shards; or s3://BUCKET/DIR or gs://BUCKET/DIR, where each block goes once it is made.
        images: how many rows to take of the list's permutation; -1 is all.
        seed: of that permutation, and of the split where the list has none. The default is Caffe's.
        labels: take only rows whose label is below this.
        classes: file with a class name a line, in label order; or flickr_style, the 20 official names.
        split: official keeps the list's own split column, or draws by URL where it has none; by_owner draws so that all
            pictures of one photographer stand in one split: its column owner, or the Flickr name in its page_url.
        test_share: share of the URLs, or of the owners, that goes to the test split where it is drawn.
        workers: processes that decode and pack; -x is all cores but x.
        connections: downloads at once.
        per_host: downloads at once from one host.
        per_host_rate: requests a second to one host; 0 is any number.
        timeout: seconds without an answer, or without a byte, after which an attempt has failed.
        deadline: seconds that one attempt may take in all.
        attempts: how often a URL is asked for that fails for a passing reason.
        max_bytes: a longer body is refused.
        proxy: http://[user:password@]host[:port], for the pictures, in place of http_proxy and https_proxy of the
            environment.
        contact: address or URL that the User-Agent names, for hosts that wonder who asks.
        disallowed_header_directives: what X-Robots-Tag may not say of a picture that is kept; [] heeds none.
        allow_private: let a redirect lead to another host with a private or loopback address.
        rewrite: rules, {match: regular expression, replace: text}, for where else to ask when a URL's host is silent.
        encode_format: original keeps the bytes as they came, pixels stores them decoded and resized (uint8 RGB),
            jpg stores a resized JPEG.
        image_size: side in pixels of resized pictures.
        rows_per_shard: rows of the list in one tar; fixed once DIR exists.
        placeholder_urls: the same bytes under so many URLs are a placeholder, which isn't kept; 0 is never.
        drop_duplicates: of rows with the same bytes keep only the first in the list.
        retry: ask again for rows that weren't kept: failed is all of them, passing those that failed for a passing
            reason; or names of outcomes with commas between them.
        partition: i/n, i from 0: do every n-th block, from block i, while others do the rest; then merge.
        stage: local folder in which blocks for a URL are made; a cache folder unless given.
        keep_stage: keep the shards of a URL there, too.
    """

    list: str | list[str]
    out: Path
    images: int = -1
    seed: int = 831486
    labels: int | None = None
    classes: str | None = None
    split: Split = "official"
    test_share: float = 0.2
    workers: int = -1
    connections: int = 64
    per_host: int = 16
    per_host_rate: float = 0.0
    timeout: int = 10
    deadline: int = 60
    attempts: int = 4
    max_bytes: int = 32 * 2**20
    proxy: str | None = None
    contact: str | None = None
    disallowed_header_directives: tuple[str, ...] = ("noai", "noimageai", "noindex", "noimageindex")
    allow_private: bool = False
    rewrite: tuple[Rewrite, ...] = ()
    encode_format: EncodeFormat = "original"
    image_size: int = 256
    rows_per_shard: int = 1000
    placeholder_urls: int = 20
    drop_duplicates: bool = False
    retry: str | None = None
    partition: str | None = None
    stage: Path | None = None
    keep_stage: bool = False

    def __post_init__(self) -> None:
        positive = ["connections", "per_host", "timeout", "deadline", "attempts", "max_bytes", "rows_per_shard"]
        rules = [
            *((name, getattr(self, name) < 1, "at least 1") for name in [*positive, "image_size"]),
            ("image_size", self.image_size > MAX_IMAGE_SIZE, f"at most {MAX_IMAGE_SIZE}"),
            ("images", self.images < 1 and self.images != -1, "at least 1, or -1 for all"),
            ("labels", self.labels is not None and self.labels < 1, "at least 1, or left out for all"),
            ("per_host_rate", not 0 <= self.per_host_rate < math.inf, "at least 0"),
            (
                "placeholder_urls",
                self.placeholder_urls < 2 and self.placeholder_urls != 0,
                "at least 2, or 0 for never",
            ),
            ("test_share", not 0 <= self.test_share < 1, "at least 0 and below 1"),
            ("seed", not 0 <= self.seed < 2**32, "at least 0 and below 2**32"),
            ("workers", self.workers == 0, "a number of processes, or -x for all cores but x"),
        ]
        for name, is_broken, rule in rules:
            if is_broken:
                raise ConfigError(f"{name} is {getattr(self, name)}; it must be {rule}")
        _ = self.share  # refuses what isn't one
        for fault in filter(None, (rule.find_fault() for rule in self.rewrite)):
            raise ConfigError(f"rewrite: {fault}")
        for name in ("proxy", "contact"):  # they become lines of aria2's configuration
            if not (getattr(self, name) or "").isprintable():
                raise ConfigError(f"{name} holds a character that can't be printed")
        if self.proxy and not _is_proxy(self.proxy):
            shown = self.proxy.rpartition("@")[2]  # without the password
            raise ConfigError(f"proxy is {shown}; it must look like http://host:8080 or http://user:password@host:8080")

    @property
    def share(self) -> Partition | None:
        """Returns what --partition asked for; None is all."""
        return Partition.parse(self.partition) if self.partition is not None else None

    @property
    def worker_count(self) -> int:
        """Returns how many processes decode and pack, -x resolved."""
        return count_processes(self.workers)

    @property
    def lists(self) -> Sequence[str]:
        """Returns what --list named, however often it was given."""
        return [self.list] if isinstance(self.list, str) else self.list


def count_processes(workers: int) -> int:
    """Resolves -x, all cores but x."""
    return workers if workers > 0 else max(1, (os.cpu_count() or 1) + workers)


def _is_proxy(proxy: str) -> bool:
    """Tells whether aria2 would take it, which speaks plain HTTP with a proxy, whatever it fetches through it."""
    try:
        parts = urlsplit(proxy if "://" in proxy else f"http://{proxy}")
        return parts.scheme == "http" and bool(parts.hostname) and parts.port != 0 and parts.path in {"", "/"}
    except ValueError:  # such as a port that is no number
        return False
