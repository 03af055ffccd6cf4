"""The settings of an assembly, typed and checked."""

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
    r"""A rule that gives another URL to try.

    Attributes:
        match: regular expression for the beginning of a URL.
        replace: replacement of the match; \1 is the first group.
    """

    match: str
    replace: str

    def find_error(self) -> str | None:
        """Return an error message of one line, or None."""
        try:
            re.sub(self.match, self.replace, "")  # compiles both of them
        except (re.error, IndexError) as error:
            return f"match {self.match!r} and replace {self.replace!r} are not a valid rule: {error}"
        return None


EncodeFormat = Literal["original", "pixels", "jpg"]
Split = Literal["official", "by_owner"]
WandbMode = Literal["disabled", "auto", "offline"]

DEFAULT_URL_COL, DEFAULT_LABEL_COL = "image_url", "label"
MAX_IMAGE_SIZE = 4096  # 48 MiB of pixels per picture


@dataclasses.dataclass(frozen=True)
class Partition:
    """One task's blocks: those whose index is `index` modulo `count`."""

    index: int  # index of the task, from 0
    count: int  # number of tasks

    @classmethod
    def parse(cls, text: str) -> "Partition":
        """Parse i/n.

        Raises:
            ConfigError: the text has another form, or i is out of range.
        """
        found = re.fullmatch(r"([0-9]{1,6})/([0-9]{1,6})", text)
        partition = cls(int(found[1]), int(found[2])) if found else cls(0, 0)
        if partition.index >= partition.count:
            raise ConfigError(f"partition is {text}; it must be i/n with i from 0 to n - 1, for example 0/16")
        return partition


@dataclasses.dataclass(frozen=True)
class AssembleConfig:
    """The settings of an assembly.

    Attributes:
        list: CSV, TSV, Parquet, JSON lines or a text file of URLs, as a path or http(s) URL; flickr_style for the
            official list; a folder of pictures that has a folder for each class; hf:NAME[:SPLIT] or hf:FOLDER, a
            Hugging Face dataset; or Caffe list files of local paths, --list train=train.txt --list test=test.txt.
        out: folder of the shards; or s3://BUCKET/DIR or gs://BUCKET/DIR, to which each finished block is uploaded.
        url_col: name of the list's column of URLs.
        label_col: name of the list's column of labels; null for pictures without labels, which then have the class
            unlabelled.
        label_separator: text between the labels in the label of a row, for example ';', if a picture may have several.
            A list of values in Parquet or JSON is several labels, too.
        local: the list's column of URLs has paths of local files; relative ones are relative to the list's folder.
        follow_links: in a folder of pictures, also follow symbolic links that lead out of it.
        images: number of rows to take from the shuffled list; -1 takes all.
        seed: seed of the shuffle and of a random split. The default is Caffe's.
        labels: take only rows whose label number is below this number.
        classes: file with one class name per line, in label order; or flickr_style, the 20 official names.
        split: official uses the column split or _split of the list, or draws a split by URL if there is none; by_owner
            draws a split in which all pictures of a photographer are in the same split. The photographer is the column
            owner, or the Flickr user in the column page_url.
        max_list_bytes: largest size of a compressed list when it is decompressed, in bytes.
        test_share: fraction of the URLs, of the owners, or of each class of a folder, in the test split of a random
            split.
        workers: number of processes that decode and pack; -x means all cores but x.
        connections: number of simultaneous downloads.
        per_host: number of simultaneous downloads from one host.
        per_host_rate: requests per second to one host; 0 for no limit.
        timeout: seconds without a response, or without a further byte, after which an attempt fails.
        deadline: longest duration of an attempt, in seconds.
        attempts: largest number of requests for a URL that fails for a temporary reason.
        max_bytes: largest response body, in bytes.
        proxy: http://[user:password@]host[:port], for the pictures, instead of http_proxy and https_proxy in the
            environment.
        contact: address or URL in the User-Agent, for operators of hosts who want to contact you.
        disallowed_header_directives: a picture with one of these directives in X-Robots-Tag isn't kept; [] ignores the
            header.
        allow_private: follow redirects to private and loopback addresses of other hosts.
        rewrite: rules, {match: REGEX, replace: TEXT}, that rewrite the URLs of hosts that don't answer.
        encode_format: original stores the bytes as downloaded, pixels stores decoded and resized pictures (uint8 RGB),
            jpg stores resized JPEGs.
        image_size: side of resized pictures in pixels.
        rows_per_shard: number of the list's rows per tar, a block; it can't be changed once the folder --out exists.
        placeholder_urls: a response body that came from at least this many URLs is a placeholder and isn't kept; 0
            disables this.
        drop_duplicates: keep only the first of the rows with equal bytes.
        retry: request rows again: failed (all that weren't kept, except duplicates), passing (temporary failures), or
            statuses separated by commas.
        partition: i/n, i from 0: process every n-th block of rows_per_shard rows, from block i, while other tasks
            process the rest; then run merge.
        stage: local folder in which blocks are made if --out is a URL; default: a cache folder.
        keep_stage: keep the tars in the stage folder after their upload.
        wandb: log the download to Weights & Biases: disabled, auto (online if there is an API key, otherwise offline),
            or offline.
        wandb_project: W&B project; by default WANDB_PROJECT, or stylefinetune.
    """

    list: str | list[str]
    out: Path
    url_col: str = DEFAULT_URL_COL
    label_col: str | None = DEFAULT_LABEL_COL
    label_separator: str | None = None
    local: bool = False
    follow_links: bool = False
    images: int = -1
    seed: int = 831486
    labels: int | None = None
    classes: str | None = None
    split: Split = "official"
    test_share: float = 0.2
    max_list_bytes: int = 4 * 2**30
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
    wandb: WandbMode = "disabled"
    wandb_project: str | None = None

    def __post_init__(self) -> None:
        positive = ["connections", "per_host", "timeout", "deadline", "attempts", "max_bytes", "rows_per_shard"]
        rules = [
            *((name, getattr(self, name) < 1, "at least 1") for name in [*positive, "image_size", "max_list_bytes"]),
            ("image_size", self.image_size > MAX_IMAGE_SIZE, f"at most {MAX_IMAGE_SIZE}"),
            ("images", self.images < 1 and self.images != -1, "at least 1, or -1 for all"),
            ("labels", self.labels is not None and self.labels < 1, "at least 1, or null for all"),
            ("per_host_rate", not 0 <= self.per_host_rate < math.inf, "at least 0"),
            ("placeholder_urls", self.placeholder_urls < 2 and self.placeholder_urls != 0, "at least 2, or 0 for off"),
            ("test_share", not 0 <= self.test_share < 1, "at least 0 and below 1"),
            ("seed", not 0 <= self.seed < 2**32, "at least 0 and below 2**32"),
            ("label_col", self.label_col == self.url_col, "another column than url_col"),
            ("workers", self.workers == 0, "a number of processes, or -x for all cores but x"),
        ]
        separator = self.label_separator
        is_word = separator is not None and (not separator or separator.isalnum())
        rules.append(("label_separator", is_word, "one or more characters that no label has, such as ;"))
        for name, is_broken, rule in rules:
            if is_broken:
                raise ConfigError(f"{name} is {getattr(self, name)}; it must be {rule}")
        _ = self.block_partition  # checks it
        for error in filter(None, (rule.find_error() for rule in self.rewrite)):
            raise ConfigError(f"rewrite: {error}")
        for name in ("proxy", "contact"):  # they are written to aria2's configuration file
            if not (getattr(self, name) or "").isprintable():
                raise ConfigError(f"{name} contains a character that can't be printed; remove it")
        if self.proxy and not is_proxy(self.proxy):
            shown = self.proxy.rpartition("@")[2]  # without the password
            raise ConfigError(f"proxy is {shown}; it must look like http://host:8080 or http://user:password@host:8080")

    @property
    def block_partition(self) -> Partition | None:
        """The parsed --partition; None for all blocks."""
        return Partition.parse(self.partition) if self.partition is not None else None

    @property
    def lists(self) -> Sequence[str]:
        """All values of --list."""
        return [self.list] if isinstance(self.list, str) else self.list


def suffix_of(partition: Partition | None) -> str:
    """Return what the names of a task's files end with, for example -0-of-16; empty without partitions."""
    return f"-{partition.index}-of-{partition.count}" if partition else ""


def count_processes(workers: int) -> int:
    """Return the number of processes for `workers`; -x is all cores but x."""
    return workers if workers > 0 else max(1, (os.cpu_count() or 1) + workers)


def is_proxy(proxy: str) -> bool:
    """Return whether aria2 accepts the URL: it supports only plain HTTP to a proxy."""
    try:
        parts = urlsplit(proxy if "://" in proxy else f"http://{proxy}")
        return parts.scheme == "http" and bool(parts.hostname) and parts.port != 0 and parts.path in {"", "/"}
    except ValueError:  # for example, a port that isn't a number
        return False
