"""A report's counts as tables on the console; plain text where they go into a file or a pipe."""

from rich.console import Console
from rich.table import Table
from rich.text import Text

from shards.report.counts import KEPT, NOT_YET, STATUS_GROUPS, StatusCounts, group_of, largest_groups
from shards.report.report import Report, show_url
from shards.report.split_leaks import SplitLeak

_MOST_HOSTS = 20
_MOST_CLASSES = 100
_EXAMPLE = 70  # characters


def print_tables(report: Report, console: Console) -> None:
    """Prints what became of the list: by status, split, class, host and year; then what leaks between the splits."""
    whole = report.whole()
    _say(console, f"{report.root}: {whole.total:,} rows, {whole.kept:,} kept ({_per_cent(whole.kept, whole.total)})")
    _print_statuses(report, console)
    _print_families("split", report.by_split(), console)
    _print_families("class", _limit(report.by_label()), console)
    _print_families("host", largest_groups(report.by_host(), _MOST_HOSTS), console)
    _print_families("year posted, by photo id", report.by_year(), console)
    _print_leaks(report, console)


def _limit(classes: list[StatusCounts]) -> list[StatusCounts]:
    return classes if len(classes) <= _MOST_CLASSES else largest_groups(classes, _MOST_CLASSES)


def _print_statuses(report: Report, console: Console) -> None:
    whole = report.whole()
    examples: dict[str, str] = {}
    for row in report.rows:
        if row.status not in {KEPT, NOT_YET}:
            examples.setdefault(row.status, f"{row.image_url}  {row.message}".rstrip())
    names = {family.key: family.name for family in STATUS_GROUPS}
    table = _table("status", "", "rows", "share", "for example")
    for status, count in sorted(whole.statuses.items(), key=lambda item: (-item[1], item[0])):
        example = show_url(examples.get(status, ""), _EXAMPLE)
        kind = names[group_of(status)]
        table.add_row(status, kind, f"{count:,}", _per_cent(count, whole.total), Text(example, no_wrap=True))
    _print(table, console)


def _print_families(title: str, tallies: list[StatusCounts], console: Console) -> None:
    counts = [each.families() for each in tallies]
    shown = [family for family in STATUS_GROUPS if family.key != "kept" and any(row[family.key] for row in counts)]
    table = _table(title, "listed", "kept", "share", *(family.name for family in shown))
    for each, families in zip(tallies, counts, strict=True):
        numbers = [f"{families[family.key]:,}" for family in shown]
        name = Text(show_url(each.name, 60))
        table.add_row(name, f"{each.total:,}", f"{each.kept:,}", _per_cent(each.kept, each.total), *numbers)
    _print(table, console)


def _print_leaks(report: Report, console: Console) -> None:
    console.print()
    for owners, rows in ((report.owners(kept=False), "listed"), (report.owners(kept=True), "kept")):
        if owners.keys:
            _say(console, f"photographers in more than one split: {_of(owners)} with {rows} pictures")
    _say(console, f"kept bodies in more than one split, byte for byte: {_of(report.doubles())}")
    if report.near_pairs is not None:
        _say(console, f"kept pictures that look like one of another split: {len(report.near_pairs):,} more")
    for body in report.recurring(kept=False)[:5]:
        _say(console, f"placeholder {body.sha256[:16]}... under {body.urls:,} URLs, {body.bytes:,} bytes")


def _of(shared: SplitLeak) -> str:
    return f"{len(shared.across):,} of {shared.keys:,}"


def _table(*titles: str) -> Table:
    table = Table(box=None, header_style="bold", pad_edge=False)
    for place, title in enumerate(titles):
        is_text = place == 0 or title in {"", "for example"}
        table.add_column(title, justify="left" if is_text else "right", no_wrap=True, overflow="ellipsis")
    return table


def _print(table: Table, console: Console) -> None:
    console.print()
    console.print(table)


def _say(console: Console, line: str) -> None:
    console.print(line, highlight=False, markup=False, soft_wrap=True)


def _per_cent(part: int, whole: int) -> str:
    return f"{100 * part / whole:.1f} %" if whole else ""
