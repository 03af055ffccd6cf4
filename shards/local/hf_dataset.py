"""Lists the pictures of a Hugging Face dataset: a folder of Parquet files with a column of pictures."""

import dataclasses
import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import types

from shards.errors import ShardsError, first_line
from shards.local.parquet_pictures import picture_name
from shards.local.splits import rename_splits, split_of, split_of_path

_SCALARS = (types.is_boolean, types.is_integer, types.is_floating, types.is_string, types.is_large_string)
_RESERVED = frozenset({"id", "split", "_split", "image_url", "sha256", "md5"})  # have a meaning in lists
_PICTURE_NAMES = ("image", "img", "picture", "photo")  # of columns of bytes


@dataclasses.dataclass(frozen=True)
class DatasetRules:
    """How the rows of a dataset are listed.

    Attributes:
        picture_column: None for the only column of pictures.
        label_column: None for the only column of class labels, or of lists of them.
        has_labels: False if the pictures are listed without labels.
        split: the only split to list; its pictures are then divided into train and test. None for all splits.
    """

    picture_column: str | None = None
    label_column: str | None = None
    has_labels: bool = True
    split: str | None = None


@dataclasses.dataclass(frozen=True)
class Dataset:
    """The pictures of a dataset, as a list."""

    listing: bytes  # JSON lines: image_url, label, split unless it is to be drawn, and the other scalar columns
    base: Path  # the folder that image_url is relative to
    picture_column: str
    classes: tuple[str, ...]  # of class labels, in their order; empty if labels are other values


def list_dataset(path: Path, rules: DatasetRules) -> Dataset:
    """List the rows of a Parquet file, or of all Parquet files in a folder.

    Raises:
        ShardsError: there is no such file, its columns are not clear, or a row has no label.
    """
    base, files = _find_files(path, rules.split)
    schemas = {file: _read_schema(base / file) for file in files}
    schema = schemas[files[0]]
    features = _read_features(schema)
    picture = _find_picture_column(schema, features, rules.picture_column, path)
    label = _find_label_column(schema, features, rules.label_column, path) if rules.has_labels else None
    names = _class_label(features.get(label, {})).get("names") if label else None
    splits = _name_splits(files, rules.split)
    lines: list[str] = []
    for file in files:
        if schemas[file].names != schema.names:
            raise ShardsError(f"--list hf:{path}: {file} has other columns than {files[0]}; give one dataset")
        for number, row in enumerate(_read_rows(base / file, schema, picture, label)):
            listed = {name: value for name, value in row.items() if name not in {*_RESERVED, label}}
            listed |= {"image_url": picture_name(file, number)} | ({"split": splits[file]} if splits else {})
            if label:
                place = f"--list hf:{path}: {file}, row {number} (counted from 0)"
                listed["label"] = _name_label(row[label], names, place)
            lines.append(json.dumps(listed, ensure_ascii=False))
    return Dataset("".join(f"{line}\n" for line in lines).encode(errors="replace"), base, picture, tuple(names or ()))


def _find_files(path: Path, split: str | None) -> tuple[Path, list[str]]:
    """Return the base folder and the paths of the Parquet files relative to it, sorted."""
    if path.is_file():
        return path.parent, [path.name]
    shards = {rows.parents[1] for rows in path.rglob("blocks/rows.parquet")}  # --out may be in the dataset's folder
    found = (file for file in path.rglob("*.parquet") if shards.isdisjoint(file.parents))
    files = sorted(file.relative_to(path).as_posix() for file in found)
    if not files:
        raise ShardsError(f"--list hf:{path}: no Parquet file in it; give a folder of Parquet files, or a file")
    if split is None:
        return path, files
    known = split_of(split)
    chosen = [
        file for file in files if (known and split_of_path(Path(file)) == known) or split in re.split(r"[/.-]", file)
    ]
    if not chosen:
        raise ShardsError(f"--list hf:{path}:{split}: no file of that split among {', '.join(files)[:200]}")
    return path, chosen


def _name_splits(files: Sequence[str], split: str | None) -> dict[str, str] | None:
    """Return the split of each file; None if the splits are to be drawn."""
    found = {file: split_of_path(Path(file)) for file in files}
    if split is not None or None in found.values() or set(found.values()) == {"train"}:
        return None
    names = rename_splits(name for name in found.values() if name)
    return {file: names[name] for file, name in found.items() if name}


def _read_schema(path: Path) -> pa.Schema:
    try:
        return pq.read_schema(path)
    except (OSError, ValueError, pa.ArrowException) as error:
        raise ShardsError(f"--list hf: {path} can't be read: {first_line(error)}") from error


def _read_features(schema: pa.Schema) -> dict[str, Any]:
    """Return the features that `datasets` stores in the schema's metadata, by column."""
    try:
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
    except (KeyError, ValueError, TypeError):
        return {}
    return {name: value for name, value in features.items() if isinstance(value, dict)}


def _find_picture_column(schema: pa.Schema, features: dict[str, Any], wanted: str | None, path: Path) -> str:
    columns = [name for name in schema.names if features.get(name, {}).get("_type") == "Image"]
    structs = [
        field.name for field in schema if types.is_struct(field.type) and field.type.get_field_index("bytes") >= 0
    ]
    binaries = [field.name for field in schema if types.is_binary(field.type) or types.is_large_binary(field.type)]
    columns = columns or structs or [name for name in binaries if name.lower() in _PICTURE_NAMES] or binaries
    if wanted is not None:
        columns = [wanted] if wanted in {*columns, *structs, *binaries} else []
    if len(columns) != 1:
        found = f"the columns {', '.join(columns)} have pictures" if columns else "no column of pictures"
        names = ", ".join(schema.names)[:200]
        raise ShardsError(f"--list hf:{path}: {found} among {names}; choose the column with --url_col NAME")
    return columns[0]


def _find_label_column(schema: pa.Schema, features: dict[str, Any], wanted: str | None, path: Path) -> str:
    columns = [name for name in schema.names if _class_label(features.get(name, {}))]
    if "label" in schema.names:
        columns = ["label"]
    if wanted is not None:
        columns = [wanted] if wanted in schema.names else []
    if len(columns) != 1:
        found = f"the columns {', '.join(columns)} have labels" if columns else "no column of labels"
        names = ", ".join(schema.names)[:200]
        raise ShardsError(
            f"--list hf:{path}: {found} among {names}; choose one with --label_col NAME, or give --label_col null for "
            "pictures without labels"
        )
    return columns[0]


def _class_label(feature: dict[str, Any]) -> dict[str, Any]:
    """Return the feature of a column's class labels, also of a column of lists of them; empty for other columns."""
    inner = feature.get("feature") if feature.get("_type") in {"Sequence", "List", "LargeList"} else feature
    return inner if isinstance(inner, dict) and inner.get("_type") == "ClassLabel" else {}


def _is_list_of_scalars(kind: pa.DataType) -> bool:
    is_list = types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind)
    return is_list and any(is_scalar(kind.value_type) for is_scalar in _SCALARS)


def _read_rows(path: Path, schema: pa.Schema, picture: str, label: str | None) -> Iterator[dict[str, Any]]:
    """Yield the scalar columns of each row; the pictures aren't read."""
    names = [field.name for field in schema if any(is_scalar(field.type) for is_scalar in _SCALARS)]
    names = [name for name in names if name != picture]
    if label and _is_list_of_scalars(schema.field(label).type):
        names.append(label)
    if label and label not in names:
        raise ShardsError(f"--list hf: {path}: the column {label} has {schema.field(label).type}, not text or numbers")
    try:
        with pq.ParquetFile(path) as file:
            if not names:
                yield from ({} for _ in range(file.metadata.num_rows))
                return
            for batch in file.iter_batches(columns=names):
                yield from batch.to_pylist()
    except (OSError, ValueError, pa.ArrowException) as error:
        raise ShardsError(f"--list hf: {path} can't be read: {first_line(error)}") from error


def _name_label(value: Any, names: Sequence[str] | None, place: str) -> Any:  # noqa: ANN401 -- any scalar
    """Return the name of a class label, or the list of those of several, or another value as it is."""
    if isinstance(value, list):
        return [_name_label(each, names, place) for each in value]
    if not names or value is None:
        return value
    if not 0 <= value < len(names):
        raise ShardsError(f"{place} has the label {value}, which is none of the {len(names)} classes; choose a split "
                          "with labels, such as hf:NAME:train")  # fmt: skip
    return names[value]
