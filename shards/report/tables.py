"""A report's counts as tables on the console, or as plain text in a file or a pipe."""

from rich.console import Console
from rich.table import Table
from rich.text import Text

from shards.counted import counted
from shards.format.outcomes import STATUS_GROUPS
from shards.progress import print_line
from shards.report.counts import StatusCounts, format_share, limit_counts
from shards.report.report import Report, printable
from shards.report.split_leaks import SplitLeak

_MAX_HOSTS = 20
_MAX_CLASSES = 100
_MAX_PLACEHOLDERS = 5
_MAX_EXAMPLE = 70  # characters


def print_tables(report: Report, console: Console) -> None:
    """Print the outcomes by status, split, class, host and year, and the leaks between the splits."""
    overall, classes = report.overall, report.by_label
    share = format_share(overall.kept, overall.total)
    print_line(console, f"{report.root}: {counted(overall.total, 'row')}, {overall.kept:,} kept ({share})")
    _print_statuses(report, console)
    _print_counts("split", report.by_split, console)
    _print_counts("class", classes if len(classes) <= _MAX_CLASSES else limit_counts(classes, _MAX_CLASSES), console)
    _print_counts("host", limit_counts(report.by_host, _MAX_HOSTS), console)
    _print_counts("year posted, by photo id", report.by_year, console)
    _print_leaks(report, console)


def _print_statuses(report: Report, console: Console) -> None:
    table = _table("status", "", "rows", "share", "for example")
    for status, count, group, row in report.statuses:
        example = f"{row.image_url}  {row.message}".rstrip() if row else ""
        share = format_share(count, len(report.rows))
        table.add_row(status, group.name, f"{count:,}", share, Text(printable(example, _MAX_EXAMPLE), no_wrap=True))
    console.print()
    console.print(table)


def _print_counts(title: str, rows: list[StatusCounts], console: Console) -> None:
    if not rows:
        return
    by_group = [each.by_group() for each in rows]
    shown = [group for group in STATUS_GROUPS if group.key != "kept" and any(counts[group.key] for counts in by_group)]
    table = _table(title, "listed", "kept", "share", *(group.name for group in shown))
    for each, counts in zip(rows, by_group, strict=True):
        numbers = [f"{counts[group.key]:,}" for group in shown]
        share = format_share(each.kept, each.total)
        table.add_row(Text(printable(each.name, 60)), f"{each.total:,}", f"{each.kept:,}", share, *numbers)
    console.print()
    console.print(table)


def _print_leaks(report: Report, console: Console) -> None:
    console.print()
    for owners, rows in ((report.owners, "listed"), (report.kept_owners, "kept")):
        if owners.keys:
            print_line(console, f"photographers in more than one split: {_describe(owners)} with {rows} pictures")
    print_line(console, f"kept pictures in more than one split, byte for byte: {_describe(report.duplicates)}")
    if report.conflicts and report.conflicts.shared:
        url, classes = next(iter(report.conflicts.largest.items()))
        example = f"{printable(url, _MAX_EXAMPLE)} is {printable(' and '.join(classes), _MAX_EXAMPLE)}"
        count = _describe(report.conflicts)
        print_line(console, f"kept pictures in more than one class, byte for byte: {count}; {example}")
    if report.near_pairs is not None:
        print_line(console, f"kept pictures that look like one of another split: {len(report.near_pairs):,} more")
    for first, urls in report.placeholders.largest[:_MAX_PLACEHOLDERS]:
        print_line(console, f"placeholder {first.sha256 or '':.16}... of {urls:,} URLs, {first.bytes or 0:,} bytes")


def _describe(leak: SplitLeak) -> str:
    return f"{leak.shared:,} of {leak.keys:,}"


def _table(*titles: str) -> Table:
    table = Table(box=None, header_style="bold", pad_edge=False)
    for number, title in enumerate(titles):
        is_text = number == 0 or title in {"", "for example"}
        table.add_column(title, justify="left" if is_text else "right", no_wrap=True, overflow="ellipsis")
    return table
