"""Parses Caffe's list files: a path and a label on each line."""

import dataclasses
import re

from shards.errors import ShardsError
from shards.format.text import decode_lines

_INTEGER = re.compile(r"\d{1,9}", re.ASCII)


@dataclasses.dataclass(frozen=True)
class ListedPicture:
    """A line of a list file."""

    line: int  # number of the line, from 1
    path: str
    label: int


def parse_caffe_list(body: bytes, name: str, num_labels: int) -> list[ListedPicture]:
    """Return the lines of a list file that are not empty. `name` is the list's in messages.

    The label follows the last space or tab, as in Caffe: a path may contain spaces.

    Raises:
        ShardsError: a line has another form, or a label that is not below `num_labels`.
    """
    pictures: list[ListedPicture] = []
    for number, line in enumerate(decode_lines(body), start=1):
        if not line.strip():
            continue
        *path, label = line.rsplit(maxsplit=1)
        if not path or not _INTEGER.fullmatch(label) or int(label) >= num_labels:
            raise ShardsError(
                f"{name}, line {number}: {line.strip()[:80]!r} isn't a path, a space or tab, "
                f"and a label from 0 to {num_labels - 1:,}"
            )
        pictures.append(ListedPicture(number, path[0].strip(), int(label)))
    return pictures
