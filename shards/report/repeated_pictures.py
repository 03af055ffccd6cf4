"""Files that several URLs returned."""

import dataclasses
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from shards.format.repeats import Hashes
from shards.report.rows import ListedRow, Rows

MAX_SHOWN = 12


class RepeatedPicture(NamedTuple):
    """One file that several URLs returned: the first row of the list that has it, and the number of distinct URLs."""

    first: ListedRow
    urls: int


@dataclasses.dataclass(frozen=True)
class RepeatedPictures:
    """Files that several URLs returned."""

    count: int
    largest: list[RepeatedPicture]  # the MAX_SHOWN files with most URLs, these first


def find_repeated_pictures(
    rows: Rows, positions: npt.NDArray[np.int64], urls: Hashes, min_urls: int
) -> RepeatedPictures:
    """Find the files with `min_urls` or more distinct URLs among some rows.

    `positions` are those of the rows, and `urls` the hashes of their URLs.
    """
    table = pa.table({"body": rows.body[positions], "url": urls, "row": rows.row[positions].astype(np.int64)})
    files = table.group_by("body").aggregate([("url", "count_distinct"), ("row", "min")])
    files = files.filter(pc.field("url_count_distinct") >= min_urls)
    order = [("url_count_distinct", "descending"), ("row_min", "ascending")]
    largest = files.sort_by(order).slice(0, MAX_SHOWN).to_pylist()
    first = rows.read_rows(rows.positions_of([file["row_min"] for file in largest]))
    by_number = {row.row: row for row in first}
    shown = [RepeatedPicture(by_number[file["row_min"]], file["url_count_distinct"]) for file in largest]
    return RepeatedPictures(len(files), shown)
