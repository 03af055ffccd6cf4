"""The dotted keys of a config with their types, and the values of those that are lists."""

import contextlib
import dataclasses
import itertools
import types
from collections.abc import Iterator
from typing import Any, Union, get_args, get_origin, get_type_hints

import yaml

from stylefinetune.config.schema import Config


def _walk(section: type, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, annotation in get_type_hints(section).items():
        yield f"{prefix}{name}", annotation
        if isinstance(annotation, type) and dataclasses.is_dataclass(annotation):
            yield from _walk(annotation, f"{prefix}{name}.")


_TYPES = dict(_walk(Config))
SECTIONS = tuple(key for key, annotation in _TYPES.items() if dataclasses.is_dataclass(annotation))
KEYS = tuple(key for key in _TYPES if key not in SECTIONS)


def _alternatives(key: str) -> list[Any]:
    """Return the types of a key's value: the members of a union, or its only type."""
    annotation = _TYPES[key]
    members = get_args(annotation) if get_origin(annotation) in (Union, types.UnionType) else (annotation,)
    return [member for member in members if member is not type(None)]


def _is_list(key: str) -> bool:
    return any(get_origin(member) is tuple for member in _alternatives(key))


LIST_KEYS = tuple(key for key in KEYS if _is_list(key))
REQUIRED = tuple(key for key in KEYS if type(None) not in get_args(_TYPES[key]))  # keys whose value can't be null


def list_of(key: str, value: object) -> object:
    """Return the value of a list: [104, 117, 123] for the text 104,117,123, and [110] for 110.

    A value that the key's type accepts without a list, such as one side as image_size, stays.
    """
    if isinstance(value, str) and "," in value:
        return [_read_value(part) for part in value.split(",")]
    return [value] if _is_element(key, value) else value


def join_repeated(key: str, texts: list[str]) -> object:
    """Return the value of a flag that is given once or more: its last list, or the single values since then."""
    values = [_read_value(text) for text in texts]
    elements = list(itertools.takewhile(lambda value: _is_element(key, value), reversed(values)))
    return elements[::-1] or list_of(key, values[-1])


def _is_element(key: str, value: object) -> bool:
    """Return whether a value is one element of a list, which is the only type of the key."""
    return len(_alternatives(key)) == 1 and isinstance(value, (int, float, dict))


def _read_value(text: str) -> object:
    """Read YAML; numbers such as 1e-3, which YAML 1.1 takes for text, are numbers."""
    with contextlib.suppress(ValueError):
        return int(text) if text.strip().isdecimal() else float(text)
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError:
        return text  # jsonargparse reports it
