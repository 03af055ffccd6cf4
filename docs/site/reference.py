"""Makes the site's reference from the code: tables of the settings, the commands' help, functions and classes."""

import dataclasses
import importlib
import inspect
import json
import re
import types
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import docstring_parser

_NAMES: dict[object, str] = {str: "text", int: "integer", float: "number", bool: "true, false", type(None): "null"}
MAX_SIGNATURE = 80  # characters of a line
_LISTS = (tuple, list, Sequence)


def settings(config: type, name: str = "") -> str:
    """Return tables of the keys of a dataclass: of its own keys, of each section, and of the items of its lists.

    Args:
        config: the dataclass, whose docstring describes its keys.
        name: its key in the dataclass that it is a part of.
    """
    hints = get_type_hints(config)
    sections = {field: hint for field, hint in hints.items() if dataclasses.is_dataclass(hint)}
    prefix = f"{name}." if name else ""
    rows = [_row(field, hints[field.name], config, prefix) for field in _fields(config) if field.name not in sections]
    summary = docstring_parser.parse(_docstring(config)).short_description
    table = "\n".join(["| key | type | default | meaning |", "|---|---|---|---|", *rows])
    text = f'{summary}\n\n<div class="settings" markdown>\n\n{table}\n\n</div>\n'
    for field, hint in sections.items():
        assert isinstance(hint, type)
        text += f"\n{_heading(prefix + field)}\n\n{settings(hint, prefix + field)}"
    for field, hint in hints.items():
        for item in _items(hint):
            text += f"\n{'####' if name else '###'} An item of `{prefix}{field}`\n\n{settings(item)}"
    return text


def commands(package: str) -> str:
    """Return the help of each command of a package, each under a heading."""
    main = importlib.import_module(f"{package}.__main__")
    text = ""
    for command, purpose in main._COMMANDS.items():  # noqa: SLF001 -- the list that `--help` prints
        shown = re.sub(r"[\x00-\x08]", "", _help(package, command)).rstrip()
        text += f"\n### {package} {command}\n\n{purpose[0].upper()}{purpose[1:]}.\n\n```text\n{shown}\n```\n"
    return text


def _help(package: str, command: str) -> str:
    """Return what `PACKAGE COMMAND --help` prints."""
    if package == "shards":
        return importlib.import_module("shards.commands").build_parser(command).format_help()
    if command in {"train", "check", "find_lr"}:
        return importlib.import_module("stylefinetune.config.help").short_help(command)
    module = importlib.import_module(f"stylefinetune.{command}")
    if hasattr(module, "__path__"):
        module = importlib.import_module(f"stylefinetune.{command}.__main__")
    return module.build_parser().format_help()


def api(name: str) -> str:
    """Return the signature and the docstring of a function, or of a class with its public methods and properties."""
    module, _, last = name.rpartition(".")
    item = getattr(importlib.import_module(module), last)
    if isinstance(item, type) and issubclass(item, Exception):
        return f"### {name}\n\n{_describe(item)}"
    text = f"### {name}\n\n{_signature(item)}{_describe(item)}"
    for member, value in vars(item).items() if isinstance(item, type) else ():
        if isinstance(value, property):
            text += f"\n#### {last}.{member}\n\n{_describe(value)}"
        elif inspect.isfunction(value) and (member == "__call__" or not member.startswith("_")):
            text += f"\n#### {last}.{member}\n\n{_signature(value)}{_describe(value)}"
    return text


def _signature(item: Callable[..., object]) -> str:
    signature = inspect.signature(item)
    parameters = [
        parameter.replace(annotation=_annotation(parameter.annotation))
        for parameter in signature.parameters.values()
        if parameter.name != "self"
    ]
    short = signature.replace(parameters=parameters, return_annotation=_annotation(signature.return_annotation))
    text = re.sub(r"(: |-> )'([^']*)'", r"\1\2", f"{item.__name__}{short}").removesuffix(" -> None")
    if len(text) > MAX_SIGNATURE:
        text = re.sub(r", (?=\*+\w|\*,|\w+:)", ",\n    ", text).replace("(", "(\n    ", 1)
        text = re.sub(r"\)( ->.*)?$", r"\n)\1", text)
    return f"```python\n{text}\n```\n\n"


def _annotation(annotation: object) -> object:
    """Return an annotation as text without the names of modules, or nothing for none."""
    if annotation is inspect.Parameter.empty:
        return annotation
    return re.sub(r"\b(?:\w+\.)+(?=[A-Z])", "", inspect.formatannotation(annotation).replace("'", ""))


def _describe(item: object) -> str:
    """Return a docstring with its sections as lists."""
    parsed = docstring_parser.parse(_docstring(item), docstring_parser.DocstringStyle.GOOGLE)
    parts = [parsed.short_description or "", parsed.long_description or ""]
    rows = [f"- `{param.arg_name}`: {_flat(param.description)}" for param in parsed.params]
    rows += [f"- raises `{error.type_name}`: {_flat(error.description)}" for error in parsed.raises]
    parts += ["\n".join(rows), f"Returns: {_flat(parsed.returns.description)}" if parsed.returns else ""]
    return "\n\n".join(filter(None, parts)) + "\n"


def _flat(text: str | None) -> str:
    return " ".join((text or "").split())


def _heading(key: str) -> str:
    return f"{'#' * min(3 + key.count('.'), 4)} {key}"


def _fields(config: type) -> tuple[dataclasses.Field[Any], ...]:
    assert dataclasses.is_dataclass(config)
    return dataclasses.fields(config)


def _row(field: dataclasses.Field[Any], hint: object, config: type, prefix: str) -> str:
    meanings = {param.arg_name: param.description or "" for param in docstring_parser.parse(_docstring(config)).params}
    meaning = _flat(meanings[field.name]).replace("*", "\\*")
    cells = (f"`{prefix}{field.name}`", _one_of(_type_names(hint)), _default(field), meaning)
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


def _docstring(item: object) -> str:
    docstring = inspect.getdoc(item)
    assert docstring
    return docstring


def _default(field: dataclasses.Field[Any]) -> str:
    value = field.default if field.default_factory is dataclasses.MISSING else field.default_factory()
    if value is dataclasses.MISSING:
        return "required"
    text = json.dumps(value, default=_plain)
    return f"`{text[1:-1] if isinstance(value, str) and value else text}`"


def _plain(value: object) -> object:
    return dataclasses.asdict(value) if dataclasses.is_dataclass(value) and not isinstance(value, type) else str(value)


def _type_names(hint: object) -> Iterator[str]:
    """Yield the types of a key's value, in words."""
    arguments = get_args(hint)
    if hint in _NAMES:
        yield _NAMES[hint]
    elif get_origin(hint) is Literal:
        yield from (f"`{value}`" for value in arguments)
    elif get_origin(hint) in (Union, types.UnionType):
        for member in arguments:
            yield from _type_names(member)
    elif get_origin(hint) in _LISTS:
        members = dict.fromkeys(name for argument in arguments if argument is not ... for name in _type_names(argument))
        count = f"{len(arguments)} " if ... not in arguments and len(arguments) > 1 else ""
        yield f"list of {count}{_one_of(f'{name}s' for name in members)}"
    elif get_origin(hint) is dict:
        yield "mapping"
    else:
        yield "path" if getattr(hint, "__name__", "") == "Path" else "item"


def _one_of(names: Iterable[str]) -> str:
    """Return alternatives as one text: "a, b or c"."""
    *others, last = ", ".join(names).split(", ")
    return f"{', '.join(others)} or {last}" if others else last


def _items(hint: object) -> Iterator[type]:
    """Yield the dataclasses that are the items of a list."""
    for argument in get_args(hint):
        if isinstance(argument, type) and dataclasses.is_dataclass(argument):
            yield argument
        else:
            yield from _items(argument)
