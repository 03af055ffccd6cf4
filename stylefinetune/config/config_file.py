"""Reads a YAML file of settings, also one that an earlier version wrote."""

from pathlib import Path
from typing import Any

import yaml
from yaml.composer import ComposerError

from stylefinetune.config.keys import LIST_KEYS, SECTIONS, list_of
from stylefinetune.errors import UserError

Content = dict[str, Any]

_FORMER_MODEL_KEYS = {"name", "last_layer", "widths", "weight_filler_std", "bias_filler_value", "dropout"}


def read_config_file(path: Path) -> Content:
    """Return the nested keys of a config file, with lists for keys that are lists.

    Raises:
        UserError: it can't be read, or is no mapping of sections.
    """
    try:
        with path.open(encoding="utf-8-sig") as file:
            content: object = _UniqueKeys(file).get_single_data()
    except OSError as error:
        raise UserError(f"--config {path} can't be read: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"--config {path} isn't YAML: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict):
        raise UserError(f"--config {path} has no keys; write for example `train: {{max_iter: 1000}}`")
    _convert_lists(content)
    _rename_former_model_keys(content)
    return content


class _UniqueKeys(yaml.SafeLoader):
    """Rejects duplicate keys; PyYAML would silently use the last of two `train:` sections."""

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:  # noqa: ANN401 -- PyYAML's signature
        node = super().compose_mapping_node(anchor)
        keys: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if key.value in keys:
                    problem = f"merge the two `{key.value}` sections; the second is"
                    raise ComposerError(problem=problem, problem_mark=key.start_mark)
                keys.add(key.value)
        return node


def _convert_lists(content: Content, prefix: str = "") -> None:
    for name, value in content.items():
        key = f"{prefix}{name}"
        if key in LIST_KEYS:
            content[name] = list_of(key, value)
        elif key in SECTIONS and isinstance(value, dict):
            _convert_lists(value, f"{key}.")


def _rename_former_model_keys(content: Content) -> None:
    """Read the section `model` of earlier versions, in which model.arch was called model.name.

    Before model.display_name existed, model.name was the name in the log, and the network was always CaffeNet. A
    config.yaml that a run wrote then has all settings of the model at that time.
    """
    model = content.get("model")
    if not isinstance(model, dict) or "name" not in model or "arch" in model:
        return
    new_key = "display_name" if "display_name" not in model and set(model) >= _FORMER_MODEL_KEYS else "arch"
    model[new_key] = model.pop("name")
