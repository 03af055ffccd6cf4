"""Writes a model card: what the network was trained on, how, and how good it is."""

import json
from pathlib import Path
from typing import Any

from shards.format.outcomes import OUTCOMES_FILE, count_outcomes
from stylefinetune.checkpoint.checkpoint import Checkpoint
from stylefinetune.data.dataset import open_index
from stylefinetune.errors import UserError
from stylefinetune.export.network import TrainedNetwork
from stylefinetune.models.architectures import TIMM

_LICENCE = """The code that trained the network has the BSD 2-Clause licence. The weights depend on the training
pictures and on the weights with which the training began; their licences apply, and this card does not know them.
Before you publish the network, check that they allow it, and replace `license: other` at the top."""

# Of RUN/evaluation/metrics.json, if it has them: overall, and for each class.
_OVERALL = {"accuracy": "accuracy", "mean_average_precision": "mean average precision", "loss": "loss"}
_BY_CLASS = ("count", "recall", "precision", "f1", "average_precision")


def model_card(network: TrainedNetwork, *, for_timm: bool = False) -> str:
    """Return the card as Markdown with the header that the Hugging Face hub reads."""
    saved = network.saved
    title = saved.config.model.title
    header = ["---", "license: other", "pipeline_tag: image-classification"]
    header += ["library_name: timm"] if for_timm else []
    header += ["tags:", "- image-classification", "- stylefinetune", "---"]
    sections = {
        "Use": _use(network, for_timm=for_timm),
        "Training data": _data(saved),
        "Recipe": _recipe(saved),
        "Results": _results(saved),
        "Licence": _LICENCE,
    }
    body = "\n\n".join(f"## {name}\n\n{text}" for name, text in sections.items())
    classes = saved.progress.classes
    summary = (
        f"{_code(network.arch)}, fine-tuned to tell {len(classes)} classes of pictures apart: {', '.join(classes)}."
    )
    return "\n".join([*header, "", f"# {title}", "", summary, "", body, ""])


def _use(network: TrainedNetwork, *, for_timm: bool) -> str:
    pre = network.describe(normalizes=False)["preprocessing"]
    height, width = pre["crop_size"]
    order = pre["normalization"]["channels"].upper()
    how = f"resized ({pre['resize']}, {pre['interpolation']}) to {pre['size']}, cropped at the centre"
    lines = [f"The input is a picture of {width}x{height} pixels: {how}, with the channels in the order {order}."]
    if for_timm:
        lines.append(
            "```python\nimport timm\n\n"
            'net = timm.create_model("hf-hub:USER/NAME", pretrained=True).eval()  # or local-dir:FOLDER\n'
            "config = timm.data.resolve_model_data_config(net)\n"
            "transform = timm.data.create_transform(**config, is_training=False)\n```"
        )
    return "\n\n".join(lines)


def _data(saved: Checkpoint) -> str:
    """Return the numbers of pictures by split, and the part of the URLs whose pictures could be had."""
    data = saved.config.data
    try:
        index = open_index(data)
    except UserError:
        return f"The shards, `{data.shards}`, could not be read when this card was written."
    lines = [f"{split}: {len(index.entries(split)):,} pictures" for split in index.splits]
    outcomes = count_outcomes(index.root / OUTCOMES_FILE)
    listed, kept = sum(outcomes.values()), outcomes.get("kept", 0)
    if listed:
        lost = sorted((item for item in outcomes.items() if item[0] != "kept"), key=lambda item: -item[1])
        reasons = f" The rest: {', '.join(f'{count:,} {status}' for status, count in lost)}." if lost else ""
        lines.append(f"pictures of the list that could be had: {kept:,} of {listed:,}, {kept / listed:.1%}.{reasons}")
    lines.append(f"trained on the split {_code(data.split)}, tested on {_code(data.phase(training=False).split)}")
    return "\n".join(f"- {line}" for line in lines)


def _recipe(saved: Checkpoint) -> str:
    config, progress = saved.config, saved.progress
    optim, train, data = config.optim, config.train, config.data
    rows: dict[str, Any] = {
        "network": config.model.arch,
        "initial weights": config.weights or "random",
        "iterations": f"{progress.iteration:,}",
        "pictures an update": config.pictures_per_iteration,
        "optimizer": optim.optimizer,
        "learning rate": f"{optim.base_lr:g}, {optim.lr_policy}",
        "weight decay": f"{optim.weight_decay:g}",
        "precision": train.precision,
        "augmentation": data.augment.policy if data.augment.policy != "none" else "crop and mirror",
        "seed": progress.seed,
    }
    return "\n".join(["| setting | value |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows.items())])


def _results(saved: Checkpoint) -> str:
    """Return the evaluation that belongs to the checkpoint; without one, the last test of its run."""
    evaluation = _evaluation_of(saved)
    if evaluation is None:
        tests = [test for test in saved.progress.tests if test["iteration"] <= saved.progress.iteration]
        if not tests:
            return "The network has not been tested."
        *_, last = tests
        values = ", ".join(f"{name} {value:.4f}" for name, value in last.items() if name != "iteration")
        return (
            f"In the test at iteration {int(last['iteration']):,}: {values}. For results by class, run `stylefinetune "
            "evaluate RUN --out RUN/evaluation`, and export again."
        )
    overall = ", ".join(
        f"{text} {_number(evaluation.get(name))}" for name, text in _OVERALL.items() if name in evaluation
    )
    columns = [name for name in _BY_CLASS if name in evaluation["by_class"][0]]
    lines = [f"{evaluation['count']:,} pictures of the split {evaluation['split']}: {overall}.", ""]
    lines += [f"| class | {' | '.join(name.replace('_', ' ') for name in columns)} |", f"|---|{'---|' * len(columns)}"]
    for row in evaluation["by_class"]:
        lines.append(f"| {row['name']} | {' | '.join(_number(row[name]) for name in columns)} |")
    return "\n".join(lines)


def _evaluation_of(saved: Checkpoint) -> dict[str, Any] | None:
    """Return RUN/evaluation/metrics.json if it is about this checkpoint."""
    path = saved.path.resolve().parents[1] / "evaluation" / "metrics.json"
    try:
        evaluation = json.loads(path.read_text(encoding="utf-8"))
        same = Path(evaluation["checkpoint"]).name == saved.path.name
        return evaluation if same and {"count", "split"} <= evaluation.keys() and evaluation["by_class"] else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _number(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:,}" if isinstance(value, int) else f"{value:.4f}"


def _code(text: str) -> str:
    return f"`{text.removeprefix(TIMM)}`"
