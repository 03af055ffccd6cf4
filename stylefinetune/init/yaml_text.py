"""Writes values as YAML, with comments."""

import json
import re

import yaml

_PLAIN = re.compile(r"[A-Za-z_/][\w./-]*")
_WORDS = frozenset({"null", "true", "false", "yes", "no", "on", "off", "y", "n"})  # not text in YAML 1.1
_WIDTH = 120


def scalar(value: object) -> str:
    """Return a value as YAML; text is quoted if needed."""
    if not isinstance(value, str):
        return yaml.safe_dump(value).splitlines()[0]
    if _PLAIN.fullmatch(value) and value.lower() not in _WORDS:
        return value
    return json.dumps(value, ensure_ascii=False)  # text in JSON is text in YAML


def line(key: str, value: object, comment: str = "", indent: int = 0) -> list[str]:
    """Return the lines of a key with its value; a long comment is above it."""
    text = f"{' ' * indent}{key}: {scalar(value)}"
    if not comment:
        return [text]
    beside = f"{text} # {comment}"
    return [beside] if len(beside) <= _WIDTH else [f"{' ' * indent}# {comment}", text]
