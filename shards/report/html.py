"""A report as one self-contained HTML page: one script, no network, and text from the web is escaped."""

import base64
import hashlib
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

import jinja2
import numpy as np

from shards.download.url_rewrite import is_web_url
from shards.files import write_file
from shards.format.outcomes import STATUS_GROUPS, Status, group_of
from shards.format.repeats import hash_text
from shards.report.breakdown import Breakdown
from shards.report.charts import draw_bytes, draw_sizes, format_bytes
from shards.report.counts import StatusCounts, format_share, limit_counts
from shards.report.report import Report, printable
from shards.report.thumbnails import choose_thumbnails, make_thumbnails
from shards.report.words import explain_outcome, name_outcome

# Limits that keep a page for 80,000 rows or 10,000 classes under 4 MB. A thumbnail takes 16 KB at most.
_MAX_CLASSES = 60
_MAX_HOSTS = 30
_MAX_PER_CLASS = 6
_MAX_GALLERY = 120
_MAX_PAIRS = 12
_MAX_OWNERS = 10
_MAX_EXAMPLES = 400  # rows without a picture
_LOOKED_AT = 100  # rows; a list of URLs may also have texts that are none


def write_page(report: Report, path: Path) -> None:
    """Write the page; equal DIRs of the same name give equal pages.

    Raises:
        ShardsError: a picture can't be read.
    """
    write_file(path, render(report).encode())


def render(report: Report) -> str:
    """Return the page.

    Raises:
        ShardsError: a picture can't be read.
    """
    # autoescape: all values are inserted as text.
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("shards.report"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(printable=printable, bytes=format_bytes, share=format_share)
    environment.filters.update(outcome=name_outcome, explain=explain_outcome)
    script = files("shards.report").joinpath("templates", "report.js").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    context = _context(report) | {"script": script, "script_digest": digest}
    return environment.get_template("report.html").render(context)


def _context(report: Report) -> dict[str, Any]:
    by_label = report.by_label
    is_local = _has_files(report)
    classes = by_label if len(by_label) <= _MAX_CLASSES else limit_counts(by_label, _MAX_CLASSES)
    return {
        "name": report.root.resolve().name,
        "report": report,
        "groups": STATUS_GROUPS,
        "group_names": [{"key": group.key, "name": group.name} for group in STATUS_GROUPS],
        "group_of": group_of,
        "max_per_class": _MAX_PER_CLASS,
        "overall": report.overall,
        "by_class": classes,
        "by_host": limit_counts(report.by_host, _MAX_HOSTS),
        "balance": _balance(classes),
        "splits": report.rows.split.distinct,
        "max_owners": _MAX_OWNERS,
        "is_web_url": is_web_url,
        "is_local": is_local,
        "noun": "files" if is_local else "URLs",
        **_sizes(report),
        **_rows(report),
    }


def _has_files(report: Report) -> bool:
    """Return whether the list has paths of files instead of URLs."""
    first = np.arange(min(_LOOKED_AT, len(report.rows)))
    return not any(map(is_web_url, report.rows.read(first, "image_url")))


def _balance(classes: list[StatusCounts]) -> list[dict[str, Any]]:
    """Return each class's share of the list and of the kept pictures, and both in per cent of the largest share."""
    listed, kept = sum(each.total for each in classes), max(1, sum(each.kept for each in classes))
    shares = [(each, each.total / listed, each.kept / kept) for each in classes]
    largest = max(max(before, after) for _, before, after in shares)
    return [
        {"counts": each, "before": before, "after": after}
        | {"before_width": 100 * before / largest, "after_width": 100 * after / largest}
        for each, before, after in shares
    ]


def _sizes(report: Report) -> dict[str, Any]:
    width, height, kept_bytes = report.pictures.width, report.pictures.height, report.rows.kept_bytes
    is_one_size = bool((width == width[:1]).all() and (height == height[:1]).all())
    formats, counts = np.unique(report.pictures.format.codes, return_counts=True)
    return {
        "sizes": None if is_one_size else draw_sizes(width, height),
        "first_size": (int(width[0]), int(height[0])) if len(width) else None,
        "bytes": draw_bytes(kept_bytes) if len(kept_bytes) else None,
        "median_bytes": int(kept_bytes[len(kept_bytes) // 2]) if len(kept_bytes) else 0,
        "total_bytes": int(kept_bytes.sum(dtype=np.int64)),
        "formats": {
            report.pictures.format.distinct[code]: count
            for code, count in zip(formats.tolist(), counts.tolist(), strict=True)
        },
    }


def _rows(report: Report) -> dict[str, Any]:
    """Choose the rows to show one by one, make a thumbnail of each picture, and prepare the filters."""
    labels = choose_thumbnails(report.index, _MAX_PER_CLASS)
    chosen: list[int] = []
    for label in sorted(labels):
        if len(chosen) < _MAX_GALLERY:
            chosen += labels[label]
    pairs = (report.near_pairs or [])[:_MAX_PAIRS]
    shown = _first_rows(report)
    wanted = set(chosen)
    wanted |= {row for rows in shown.values() for row in rows.values()}
    wanted |= {row for pair in pairs for row in (pair.row, pair.other)}
    wanted |= {picture.first.row for picture in report.repeated.largest}
    breakdown = Breakdown(report.rows, report.hosts, report.class_name)
    positions, examples = report.rows.positions_of(wanted), breakdown.choose_examples(_MAX_EXAMPLES)
    rows = [*report.rows.read_rows(positions), *report.rows.read_rows(examples)]
    at = dict(zip((row.row for row in rows), [*positions.tolist(), *examples.tolist()], strict=True))
    return {
        "gallery": list(dict.fromkeys(chosen)),
        "thumbnails": make_thumbnails(report.root, report.index, wanted),
        "row_of": {row.row: row for row in rows},
        "examples": [row.row for row in rows[len(positions) :]],
        "class_names": {row: _class_names(report, position) for row, position in at.items()},
        "choices_of": {row: breakdown.choices_of(position) for row, position in at.items()},
        "filters": {name: each.names for name, each in breakdown.filters.items()},
        "cells": breakdown.cells,
        "outcome_groups": [group_of(status).key for status in breakdown.filters["outcome"].names],
        "shown_duplicates": shown,
        "pairs": pairs,
    }


def _class_names(report: Report, position: int) -> str:
    rows = report.rows
    labels = rows.label[[position]] if rows.labels is None else rows.labels[position]
    return ", ".join(map(report.class_name, labels.tolist()))


def _first_rows(report: Report) -> dict[str, Mapping[str, int]]:
    """Return the first row in each split, for the first pictures that are in several splits."""
    rows, is_kept = report.rows, report.rows.has_status(Status.KEPT)
    first: dict[str, Mapping[str, int]] = {}
    for digest in report.duplicates.largest:
        positions = np.flatnonzero(is_kept & (rows.body == hash_text(digest)))
        codes, earliest = np.unique(rows.split.codes[positions], return_index=True)
        found = rows.row[positions[earliest]].tolist()
        first[digest] = {rows.split.distinct[code]: row for code, row in zip(codes.tolist(), found, strict=True)}
    return first
