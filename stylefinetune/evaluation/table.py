"""Prints an evaluation as text: the overall values, a line per class with a bar, and the most frequent mistakes."""

import math
from collections.abc import Callable, Iterator

from shards.format import shorten
from stylefinetune.evaluation.baselines.baselines import Baselines
from stylefinetune.evaluation.metrics import ClassMetrics, Evaluation
from stylefinetune.evaluation.several_labels import LabelEvaluation
from stylefinetune.evaluation.suspects import Suspects

_BAR = 20  # characters for a recall of 1
_MAX_CLASSES, _MAX_NAME = 40, 24
_MAX_SUSPECTS = 10
_EIGHTHS = " ▏▎▍▌▋▊▉"


def describe(evaluation: Evaluation) -> Iterator[str]:
    """Yield the lines."""
    low, high = evaluation.accuracy_interval
    yield f"accuracy = {evaluation.accuracy:.6g} ({evaluation.correct} of {evaluation.count})"
    yield f"loss = {evaluation.loss:.6g}"
    yield f"95 % interval of the accuracy = {low:.4f} to {high:.4f}"
    if len(evaluation.by_class) > 5:
        yield f"top-5 accuracy = {evaluation.top5:.4f}"
    yield f"balanced accuracy = {evaluation.balanced_accuracy:.4f}"
    yield f"mean average precision = {evaluation.mean_average_precision:.4f}"
    yield f"expected calibration error = {evaluation.calibration_error:.4f}"
    yield from _table_of(evaluation.by_class)
    yield from _mistakes(evaluation)


def describe_labels(evaluation: LabelEvaluation) -> Iterator[str]:
    """Yield the lines for pictures with several labels."""
    low, high = evaluation.accuracy_interval
    yield f"mean average precision = {evaluation.mean_average_precision:.4f}"
    yield f"loss = {evaluation.loss:.6g}"
    yield f"accuracy = {evaluation.accuracy:.6g} ({evaluation.correct} of {evaluation.count})"
    yield f"95 % interval of the accuracy = {low:.4f} to {high:.4f}"
    yield f"macro F1 = {evaluation.macro_f1:.4f}"
    yield f"micro F1 = {evaluation.micro_f1:.4f}"
    yield from _table_of(evaluation.by_class)
    yield ""
    yield "Accuracy: the share of the pictures whose most probable class is one of their labels."
    yield f"Recall, precision and F1: of the classes with a probability of {evaluation.threshold:g} or more."


def describe_baselines(evaluation: Evaluation, baselines: Baselines) -> Iterator[str]:
    """Yield the lines for the network and the simple classifiers of its features."""
    rows = {
        "this network": evaluation,
        f"{baselines.neighbours} nearest neighbours": baselines.knn,
        f"linear probe, L2 penalty {baselines.penalty:g}": baselines.linear_probe,
    }
    width = max(map(len, rows))
    has_top5 = len(evaluation.by_class) > 5
    yield ""
    yield (
        f"Classifiers of the {baselines.layer} ({baselines.dimensions:,} features), fitted to {baselines.pictures:,} "
        f"of {baselines.available:,} pictures of split {baselines.split}:"
    )
    yield f"{'classifier':{width}}  accuracy  95 % interval{'         top-5' if has_top5 else ''}"
    for name, score in rows.items():
        low, high = score.accuracy_interval
        top5 = f"  {score.top5:9.4f}" if has_top5 else ""
        yield f"{name:{width}}  {score.accuracy:8.4f}  {low:.4f} to {high:.4f}{top5}"


def describe_suspects(suspects: Suspects, count: int, key_of: Callable[[int], str]) -> Iterator[str]:
    """Yield the lines for suspect labels among those of `count` pictures; `key_of` returns the key of a row."""
    yield ""
    yield f"{len(suspects)} of {count} labels are suspect{'; the first are:' if len(suspects) else ''}"
    columns = (suspects.labels, suspects.suggested, suspects.label_probability, suspects.suggested_probability)
    shown = list(zip(*(column[:_MAX_SUSPECTS].tolist() for column in (*columns, suspects.rows)), strict=True))
    names = [_short(name) for name in suspects.classes]
    width = max((len(names[label]) for row in shown for label in row[:2]), default=0)
    for label, suggested, own, other, row in shown:
        yield f"  {own:.3f} {names[label]:{width}}  rather {other:.3f} {names[suggested]:{width}}  {key_of(row)}"


def _table_of(by_class: list[ClassMetrics]) -> Iterator[str]:
    present = sorted((metrics for metrics in by_class if metrics.count), key=lambda metrics: metrics.recall)
    shown = present[:_MAX_CLASSES]
    width = max(len(_short(metrics.name)) for metrics in shown)
    more = "" if len(shown) == len(present) else f" (the {_MAX_CLASSES} lowest of {len(present)} classes)"
    yield ""
    yield f"{'class':{width}}  pictures  recall {'':{_BAR}}  precision    F1    AP{more}"
    for metrics in shown:
        yield (
            f"{_short(metrics.name):{width}}  {metrics.count:8}  {metrics.recall:6.3f} {_bar(metrics.recall)}  "
            f"{_number(metrics.precision):>9}  {metrics.f1:.2f}  {metrics.average_precision:.2f}"
        )
    if absent := [_short(metrics.name) for metrics in by_class if not metrics.count]:
        yield f"Not in the table, since they have no pictures here: {shorten(absent)}"


def _mistakes(evaluation: Evaluation) -> Iterator[str]:
    confused = evaluation.most_confused(5)
    if confused:
        yield ""
        yield "Most frequent mistakes:"
    for true, predicted, count, pictures in confused:
        yield f"  {count} of {pictures} pictures of {true} are taken for {predicted}"


def _bar(share: float) -> str:
    eighths = round(share * _BAR * 8)
    full, rest = divmod(eighths, 8)
    return f"{'█' * full}{_EIGHTHS[rest] if rest else ''}".ljust(_BAR)


def _short(name: str) -> str:
    return name if len(name) <= _MAX_NAME else f"{name[: _MAX_NAME - 1]}…"


def _number(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.2f}"
