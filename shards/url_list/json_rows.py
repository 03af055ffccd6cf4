"""Reads the rows of a list in JSON: one object on each line, or one array of objects."""

import io
import json
import re
from collections.abc import Iterator
from typing import IO, Any

from shards.errors import ShardsError

_DECODER = json.JSONDecoder(parse_constant=lambda _: None)  # Python's encoder writes NaN, which is not JSON
_WHITESPACE = " \t\r\n"  # JSON's
_NAMES: dict[type, str] = {list: "an array", str: "a string", int: "a number", float: "a number", bool: "true or false"}


def read_json_lines(file: IO[bytes], name: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """Return the rows of a UTF-8 text with a JSON object on each line, and their lines. Blank lines are skipped.

    Raises:
        ShardsError: a line is not a JSON object.
    """
    with io.TextIOWrapper(file, encoding="utf-8", newline="\n") as lines:
        for number, line in enumerate(lines, start=1):
            if text := line.strip(_WHITESPACE):
                yield number, _check_object(_decode(text, name, number), f"--list {name}, line {number}")


def read_json_array(file: IO[bytes], name: str) -> Iterator[dict[str, Any]]:
    """Return the rows of a UTF-8 text that is one JSON array of objects; it is read into memory.

    Raises:
        ShardsError: it is not such an array.
    """
    for row, value in enumerate(_decode(file.read().decode(), name, 1)):
        yield _check_object(value, f"--list {name}, row {row} (counted from 0)")


def _decode(text: str, name: str, line: int) -> Any:  # noqa: ANN401 -- any JSON value
    """Decode a JSON text that begins in this line of the list."""
    try:
        return _DECODER.decode(text)
    except json.JSONDecodeError as error:
        place = f"line {line + error.lineno - 1}, column {error.colno}"
        raise ShardsError(
            f"--list {name}, {place}: not valid JSON: {error.msg}; a list has an object on each line, or is an array"
        ) from error
    except (ValueError, RecursionError) as error:  # an integer of more than 4,300 digits, or 1,000 arrays in each other
        reason = re.split("[:;]", str(error))[0]
        raise ShardsError(f"--list {name}, line {line}: not a value that can be read: {reason}") from error


def _check_object(value: object, place: str) -> Any:  # noqa: ANN401 -- as _decode
    if isinstance(value, dict):
        return value
    found = _NAMES.get(type(value), "null")
    raise ShardsError(f'{place}: {found}, where a JSON object is expected, such as {{"image_url": ..., "label": ...}}')
