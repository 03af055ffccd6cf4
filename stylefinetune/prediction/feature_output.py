"""Writes an array for each picture: as a column of a Parquet file, or as .npy with the names beside it."""

import contextlib
import json
import math
from collections.abc import Callable, Generator, Sequence
from pathlib import Path
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from stylefinetune.prediction.output_file import WriteColumns, complete_file, parquet_output, printable, text_output

FEATURE_SUFFIXES = (".parquet", ".npy")

Features: TypeAlias = npt.NDArray[np.float32]
Write: TypeAlias = Callable[[Sequence[str], Features], None]  # writes a batch: names, and float32[b, ...]


@contextlib.contextmanager
def open_feature_output(path: Path, metadata: dict[str, str]) -> Generator[Write]:
    """Yield the function that writes a batch; the files appear when they are complete.

    - NAME.parquet has the columns picture and features, flattened; its metadata has `metadata` and the shape.
    - NAME.npy is float32[N, ...], and NAME.names.txt has the name of the picture of each row.
    """
    opened = _open_npy(path) if path.suffix == ".npy" else _open_parquet(path, metadata)
    with opened as write:
        yield write


@contextlib.contextmanager
def _open_npy(path: Path) -> Generator[Write]:
    shape: list[int] = []  # of all rows; the first number grows

    with (
        complete_file(path) as draft,
        text_output(path.with_suffix(".names.txt")) as names_file,
        draft.open("wb") as file,
    ):

        def write_header() -> None:
            # NumPy leaves enough space that the first number can grow.
            file.seek(0)
            header = {"descr": "<f4", "fortran_order": False, "shape": tuple(shape or [0])}
            np.lib.format.write_array_header_1_0(file, header)

        def write_batch(names: Sequence[str], features: Features) -> None:
            if not shape:
                shape[:] = [0, *features.shape[1:]]
                write_header()
            shape[0] += len(features)
            file.write(np.ascontiguousarray(features, "<f4").tobytes())
            names_file.writelines(f"{printable(name)}\n" for name in names)

        yield write_batch
        write_header()


@contextlib.contextmanager
def _open_parquet(path: Path, metadata: dict[str, str]) -> Generator[Write]:
    with complete_file(path) as draft, contextlib.ExitStack() as stack:
        opened: list[WriteColumns] = []  # one, after the first batch, which has the shape

        def open_file(shape: Sequence[int]) -> WriteColumns:
            schema = pa.schema({"picture": pa.string(), "features": pa.list_(pa.float32(), math.prod(shape))})
            schema = schema.with_metadata(metadata | {"shape": json.dumps(list(shape))})
            return stack.enter_context(parquet_output(draft, schema))

        def write_batch(names: Sequence[str], features: Features) -> None:
            if not opened:
                opened.append(open_file(features.shape[1:]))
            flat = pa.array(np.ascontiguousarray(features).reshape(-1))
            size = math.prod(features.shape[1:])
            texts = pa.array(list(map(printable, names)), pa.string())
            opened[0]([texts, pa.FixedSizeListArray.from_arrays(flat, size)])

        yield write_batch
        if not opened:
            open_file([0])
