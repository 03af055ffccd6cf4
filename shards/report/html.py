"""A report as one HTML page that needs nothing else: no script, no network, every word from the web escaped."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import jinja2

from shards.files import publish_file
from shards.report.charts import draw_bytes, draw_sizes, format_bytes
from shards.report.counts import KEPT, NOT_YET, STATUS_GROUPS, StatusCounts, group_of, largest_groups
from shards.report.report import NO_YEAR, Report, show_url
from shards.report.split_leaks import SplitLeak
from shards.report.thumbnails import choose_thumbnails, make_thumbnails

# What keeps a page of 80,000 rows, or of 10,000 classes, under 3 MB. A thumbnail takes 11 KB at most.
_MOST_CLASSES = 60
_MOST_HOSTS = 30
_PER_CLASS = 6
_MOST_PICTURES = 120
_MOST_DOUBLES = 12
_MOST_OWNERS = 10


def write_page(report: Report, path: Path) -> None:
    """Writes the page; equal DIRs of one name give equal pages.

    Raises:
        ShardsError: a picture that it shows can't be read.
    """
    body = render(report).encode()
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        draft.write_bytes(body)
        publish_file(draft, path)
    finally:
        draft.unlink(missing_ok=True)


def render(report: Report) -> str:
    """Returns the page.

    Raises:
        ShardsError: a picture that it shows can't be read.
    """
    # autoescape: what is put into the page from here on is text, whatever stands in it.
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("shards"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    filters: dict[str, Any] = {"show": show_url, "bytes": format_bytes, "share": _per_cent, "web": _web_only}
    environment.filters.update(filters)
    return environment.get_template("report.html").render(_context(report))


def _context(report: Report) -> dict[str, Any]:
    by_label = report.by_label()
    classes = by_label if len(by_label) <= _MOST_CLASSES else largest_groups(by_label, _MOST_CLASSES)
    return {
        "name": report.root.resolve().name,
        "report": report,
        "families": STATUS_GROUPS,
        "whole": report.whole(),
        "statuses": _statuses(report),
        "by_split": report.by_split(),
        "by_class": classes,
        "by_host": largest_groups(report.by_host(), _MOST_HOSTS),
        "by_year": report.by_year(),
        "has_years": any(year.name != NO_YEAR for year in report.by_year()),
        "balance": _balance(classes),
        "owners": {"listed": report.owners(kept=False), "kept": report.owners(kept=True)},
        "splits": sorted({row.split for row in report.rows}),
        "most_owners": _MOST_OWNERS,
        **_sizes(report),
        **_pictures(report),
    }


def _statuses(report: Report) -> list[dict[str, Any]]:
    """Returns each status with its count and the first row that has it, the most frequent status first."""
    examples = {}
    for row in report.rows:
        if row.status not in {KEPT, NOT_YET}:
            examples.setdefault(row.status, row)
    counts = sorted(report.whole().statuses.items(), key=lambda item: (-item[1], item[0]))
    return [
        {"status": status, "count": count, "family": group_of(status), "example": examples.get(status)}
        for status, count in counts
    ]


def _balance(classes: list[StatusCounts]) -> list[dict[str, Any]]:
    """Returns each class's share of the list and of what was kept, and both in per cent of the largest one."""
    listed, kept = sum(each.total for each in classes), max(1, sum(each.kept for each in classes))
    shares = [(each, each.total / listed, each.kept / kept) for each in classes]
    most = max(max(before, after) for _, before, after in shares)
    return [
        {"tally": each, "before": before, "after": after, "before_width": 100 * before / most}
        | {"after_width": 100 * after / most}
        for each, before, after in shares
    ]


def _sizes(report: Report) -> dict[str, Any]:
    widths, heights = (report.index.column(name).to_pylist() for name in ("width", "height"))
    kept_bytes = sorted(row.bytes for row in report.rows if row.status == KEPT and row.bytes)
    formats: dict[str, int] = {}
    for name in sorted(report.index.column("format").to_pylist()):
        formats[name] = formats.get(name, 0) + 1
    return {
        "sizes": draw_sizes(widths, heights) if len(set(zip(widths, heights, strict=True))) > 1 else None,
        "one_size": (widths[0], heights[0]) if widths else None,
        "bytes": draw_bytes(kept_bytes) if kept_bytes else None,
        "kept_bytes": kept_bytes,
        "formats": formats,
    }


def _pictures(report: Report) -> dict[str, Any]:
    """Chooses the pictures that are shown, and encodes each once."""
    labels = choose_thumbnails(report.index, _PER_CLASS)
    chosen: dict[int, list[int]] = {}
    for label in sorted(labels):
        if sum(map(len, chosen.values())) < _MOST_PICTURES:
            chosen[label] = labels[label]
    doubles, pairs = report.doubles(), (report.near_pairs or [])[:_MOST_DOUBLES]
    repeated, placeholders = report.recurring(kept=True), report.recurring(kept=False)
    shown = _first_rows(report, doubles)
    wanted = {row for rows in chosen.values() for row in rows}
    wanted |= {row for rows in shown.values() for row in rows.values()}
    wanted |= {row for pair in pairs for row in (pair.row, pair.other)}
    wanted |= {body.row for body in repeated[:_MOST_DOUBLES]}
    return {
        "gallery": chosen,
        "unshown": len(labels) - len(chosen),
        "thumbnails": make_thumbnails(report.root, report.index, wanted),
        "row_of": {row.row: row for row in report.rows if row.row in wanted},
        "doubles": doubles,
        "shown_doubles": shown,
        "pairs": pairs,
        "repeated": repeated,
        "shown_repeated": repeated[:_MOST_DOUBLES],
        "placeholders": placeholders,
        "shown_placeholders": placeholders[:_MOST_DOUBLES],
    }


def _first_rows(report: Report, doubles: SplitLeak) -> dict[str, Mapping[str, int]]:
    """Returns for the first bodies that stand in several splits the first row in each of those."""
    first: dict[str, dict[str, int]] = {digest: {} for digest in list(doubles.across)[:_MOST_DOUBLES]}
    for row in report.rows:
        if row.status == KEPT and row.sha256 in first:
            first[row.sha256].setdefault(row.split, row.row)
    return {digest: dict(sorted(rows.items())) for digest, rows in first.items()}


def _per_cent(part: float, whole: float = 1, places: int = 1) -> str:
    return f"{100 * part / whole:.{places}f} %" if whole else ""


def _web_only(url: str) -> str | None:
    """Returns a URL that may stand in a link: of http or https; of anything else, None."""
    try:
        return url if urlsplit(url).scheme in {"http", "https"} else None
    except ValueError:  # such as a bracket that doesn't close
        return None
