"""Where results are written: stdout, or a file that appears when it is complete."""

import contextlib
import os
import sys
from collections.abc import Callable, Generator
from pathlib import Path
from typing import TextIO, TypeAlias

import pyarrow as pa
import pyarrow.parquet as pq

from stylefinetune.errors import write_error

_GROUP_BYTES = 2**22  # of a Parquet file that are compressed and written together

WriteColumns: TypeAlias = Callable[[list[pa.Array]], None]


@contextlib.contextmanager
def complete_file(path: Path) -> Generator[Path]:
    """Yield the path of a draft, which replaces `path` at the end; an error or Ctrl-C deletes it.

    Raises:
        RankError: it can't be written.
    """
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield draft
        draft.replace(path)
    except OSError as error:
        if error.filename not in {None, str(draft), str(path.parent)}:  # about another file
            raise
        raise write_error(path, error.strerror or str(error)) from error
    finally:
        with contextlib.suppress(OSError):
            draft.unlink(missing_ok=True)


@contextlib.contextmanager
def text_output(path: Path | None) -> Generator[TextIO]:
    """Yield stdout, or the draft of a text file."""
    if path is None:
        yield sys.stdout
        return
    with complete_file(path) as draft, draft.open("w", encoding="utf-8", errors="backslashreplace", newline="") as file:
        yield file


@contextlib.contextmanager
def parquet_output(draft: Path, schema: pa.Schema) -> Generator[WriteColumns]:
    """Yield a function that adds rows, as an array for each column, to a Parquet file, which is written in parts."""
    waiting: list[pa.RecordBatch] = []
    with pq.ParquetWriter(draft, schema) as file:

        def write(columns: list[pa.Array]) -> None:
            waiting.append(pa.RecordBatch.from_arrays(columns, schema=schema))
            if sum(batch.nbytes for batch in waiting) >= _GROUP_BYTES:
                write_waiting()

        def write_waiting() -> None:
            file.write_table(pa.Table.from_batches(waiting, schema))
            waiting.clear()

        yield write
        write_waiting()


def printable(name: str) -> str:
    """Return a name whose bytes on disk aren't UTF-8 as text, with backslash escapes."""
    return name.encode(errors="backslashreplace").decode()
