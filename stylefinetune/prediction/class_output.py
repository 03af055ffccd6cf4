"""Writes the most probable classes of pictures: as text like Caffe's example, JSON lines, CSV or Parquet."""

import contextlib
import csv
import io
import json
from collections.abc import Callable, Generator, Sequence
from pathlib import Path
from typing import Literal, TextIO, TypeAlias

import pyarrow as pa

from stylefinetune.prediction.output_file import complete_file, parquet_output, printable, text_output

Format: TypeAlias = Literal["table", "jsonl", "csv", "parquet"]
FORMAT_OF_SUFFIX: dict[str, Format] = {".jsonl": "jsonl", ".ndjson": "jsonl", ".csv": "csv", ".parquet": "parquet"}

Best: TypeAlias = tuple[list[int], list[float]]  # the labels and probabilities of a picture, most probable first
Write: TypeAlias = Callable[[Sequence[str], Sequence[Best]], None]  # writes a batch: the names, and what was found


@contextlib.contextmanager
def open_class_output(
    kind: Format, path: Path | None, classes: Sequence[str], top: int, checkpoint: Path
) -> Generator[Write]:
    """Yield the function that writes a batch.

    Args:
        kind: the format; parquet needs `path`.
        path: the file, which appears when it is complete; by default stdout, to which each batch is written at once.
        classes: names in label order.
        top: number of classes of each picture.
        checkpoint: where the network is from, for the metadata of a Parquet file.
    """
    if kind == "parquet":
        assert path is not None
        with complete_file(path) as draft, _open_parquet(draft, classes, checkpoint) as write:
            yield write
        return
    with text_output(path) as stream:
        if kind == "csv":
            _write_header(stream, top)
        encode = {"table": _caffe_lines, "jsonl": _json_line, "csv": _csv_line}[kind]

        def write_text(names: Sequence[str], found: Sequence[Best]) -> None:
            stream.writelines(encode(name, best, classes) for name, best in zip(names, found, strict=True))
            stream.flush()

        yield write_text


def _caffe_lines(name: str, best: Best, classes: Sequence[str]) -> str:
    """Return a picture's lines in the format of Caffe's classification example."""
    lines = [f'{probability:.4f} - "{classes[label]}"\n' for label, probability in zip(*best, strict=True)]
    return "".join([f"---------- Prediction for {name} ----------\n", *lines])


def _json_line(name: str, best: Best, classes: Sequence[str]) -> str:
    found = [
        {"class": classes[label], "label": label, "probability": round(probability, 7)}
        for label, probability in zip(*best, strict=True)
    ]
    return json.dumps({"picture": printable(name), "classes": found}, ensure_ascii=False) + "\n"


def _csv_line(name: str, best: Best, classes: Sequence[str]) -> str:
    pairs = [(classes[label], f"{probability:.7g}") for label, probability in zip(*best, strict=True)]
    return _csv([name, *(value for pair in pairs for value in pair)])


def _write_header(stream: TextIO, top: int) -> None:
    names = [name for place in range(1, top + 1) for name in (f"class_{place}", f"probability_{place}")]
    stream.write(_csv(["picture", *names]))


def _csv(row: list[str]) -> str:
    line = io.StringIO()
    csv.writer(line, lineterminator="\n").writerow(row)
    return line.getvalue()


@contextlib.contextmanager
def _open_parquet(path: Path, classes: Sequence[str], checkpoint: Path) -> Generator[Write]:
    schema = pa.schema(
        {
            "picture": pa.string(),
            "labels": pa.list_(pa.int32()),
            "classes": pa.list_(pa.string()),
            "probabilities": pa.list_(pa.float32()),
        },
        metadata={"checkpoint": printable(str(checkpoint)), "classes": json.dumps(list(classes))},
    )
    with parquet_output(path, schema) as write_columns:

        def write_batch(names: Sequence[str], found: Sequence[Best]) -> None:
            labels, probabilities = [best[0] for best in found], [best[1] for best in found]
            texts = [[classes[label] for label in each] for each in labels]
            columns = [list(map(printable, names)), labels, texts, probabilities]
            write_columns([pa.array(column, field.type) for column, field in zip(columns, schema, strict=True)])

        yield write_batch
