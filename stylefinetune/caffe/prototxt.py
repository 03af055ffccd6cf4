"""Parses prototxt files, and checks their fields; an error names the file, the line and the layer."""

import collections
import dataclasses
import re
from collections.abc import Iterator, Set
from pathlib import Path
from typing import Any, TypeAlias

from google.protobuf import text_format
from google.protobuf.message import Message

from shards.format.text import decode_lines, find_file
from stylefinetune.caffe.schema import enum_name, message_class
from stylefinetune.errors import UserError

FieldPath: TypeAlias = tuple[tuple[str, int], ...]
"""The path to a field in a file: the names of the fields around it and its own, each with its index if repeated."""

_TOKEN = re.compile(
    r"""(?P<skipped>\#[^\n]*|"(?:\\.|[^"\\\n])*"|'(?:\\.|[^'\\\n])*'|[-+]?\.?\d[\w.+-]*)"""  # comments and values
    r"|(?P<name>[A-Za-z_]\w*)|(?P<mark>[{}<>\[\]:])"
)


@dataclasses.dataclass(frozen=True)
class Place:
    """The place of a message in a prototxt file, for errors."""

    file: Path
    text: str
    path: FieldPath = ()
    label: str = ""  # the layer and the parameters, for example "layer conv1: convolution_param"

    def at(self, field: str, index: int = 0, label: str | None = None) -> "Place":
        """Return the place of a field; without `label`, the label is continued with the field's name."""
        continued = f"{self.label}: {field}" if self.label else field
        return dataclasses.replace(self, path=(*self.path, (field, index)), label=continued if label is None else label)

    def error(self, reason: str, field: str | None = None, index: int = 0) -> UserError:
        """Return the error for the message, or for one of its fields."""
        path = self.path if field is None else (*self.path, (field, index))
        lines = dict(_field_lines(self.text))
        line = next((lines[path[:length]] for length in range(len(path), 0, -1) if path[:length] in lines), None)
        where = f"{self.file}:{line}" if line else f"{self.file}"
        return UserError(f"{where}: {self.label}: {reason}" if self.label else f"{where}: {reason}")


def parse_text(path: Path, kind: str) -> tuple[Any, Place]:
    """Parse a prototxt file as a message of type `kind`; return the message and its place.

    Raises:
        UserError: it can't be read or parsed; the message has the line number.
    """
    try:
        text = "\n".join(decode_lines(find_file(str(path)).read_bytes()))
    except OSError as error:
        raise UserError(f"{path} can't be read: {error.strerror}") from error
    return parse_content(text, path, kind)


def parse_content(text: str, path: Path, kind: str) -> tuple[Any, Place]:
    """Parse the content of a prototxt file; see parse_text.

    Raises:
        UserError: it can't be parsed.
    """
    try:
        return text_format.Parse(text, message_class(kind)()), Place(path, text)
    except text_format.ParseError as error:
        raise UserError(f"{path}:{' '.join(str(error).split())}") from error


def _field_lines(text: str) -> Iterator[tuple[FieldPath, int]]:
    """Yield the path and the line of each field of a valid prototxt."""
    path: FieldPath = ()
    counts = [collections.Counter[str]()]  # fields seen in each of the open messages, by name
    field, previous, in_list = ("", 0), "", False
    line = position = 0
    for token in _TOKEN.finditer(text):
        line, position = line + text.count("\n", position, token.start()), token.start()
        value = token[0]
        if value in {"{", "<"}:
            path, counts = (*path, field), [*counts, collections.Counter()]
        elif value in {"}", ">"}:
            path, counts = path[:-1], counts[:-1]
        elif value in {"[", "]"}:
            in_list = value == "["
        elif token["name"] and previous != ":" and not in_list:
            field = (value, counts[-1][value])
            counts[-1][value] += 1
            yield (*path, field), line + 1
        if not value.startswith("#"):
            previous = value


def check_defaults(message: Message, place: Place, free: Set[str]) -> None:
    """Check that every field has Caffe's default, except those in `free`.

    Raises:
        UserError: a field differs; the message has its place, name and value.
    """
    for field in message.DESCRIPTOR.fields:
        if field.name in free:
            continue
        value: Any = getattr(message, field.name)
        if field.is_repeated:  # sizes of a convolution are lists: one value for all axes, or one for each
            default = 1 if field.name in {"stride", "dilation"} else 0
            same = list(value) in ([], [default], [default, default])
        elif field.message_type is not None:
            same = not message.HasField(field.name)
        else:
            same = value == field.default_value
        if not same:
            raise place.error(f"{field.name} {_show(message, field.name)} isn't supported", field.name)


def _show(message: Message, name: str) -> str:
    """Return a field's value in a few characters, as a prototxt has it."""
    field, value = message.DESCRIPTOR.fields_by_name[name], getattr(message, name)
    if field.enum_type is not None and not field.is_repeated:
        return enum_name(message, name)
    if field.type == field.TYPE_BOOL:
        return str(value).lower()
    text = ", ".join(map(str, value)) if field.is_repeated else str(value)
    return " ".join(text.split())[:60]


def round_float32(value: float) -> float:
    """Return the decimal number in the prototxt; protobuf rounded it to float32."""
    return float(f"{value:.7g}")
