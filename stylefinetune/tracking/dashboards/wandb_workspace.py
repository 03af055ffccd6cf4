"""Describes a workspace and a report of Weights & Biases for the metrics of this project, and publishes them."""

import json
from typing import Any

import wandb
import wandb_workspaces.reports.v2 as wr
import wandb_workspaces.workspaces as ws
from wandb_workspaces.reports.v2.interface import Report, Runset

TITLE = "stylefinetune"
_PAGES = ("confusion", "calibration", "worst", "best")
_TABLE = "final/predictions"  # the same predictions as in the pages `worst` and `best`
_NUMBERS = ("balanced_accuracy", "mean_average_precision", "calibration_error")


def build_workspace(entity: str, project: str) -> ws.Workspace:
    """Return a view of the project with a section for each question about a run."""
    sections = [ws.Section(name=name, panels=panels, is_open=True) for name, panels in _panels().items()]
    return ws.Workspace(entity=entity, project=project, name=TITLE, sections=sections)


def build_report(entity: str, project: str) -> Report:
    """Return a report of the project's runs with the same panels."""
    runs = [Runset(entity=entity, project=project)]
    blocks: list[Any] = [wr.TableOfContents()]
    for name, panels in _panels().items():
        blocks += [wr.H2(name), wr.PanelGrid(runsets=runs, panels=panels)]
    description = f"The runs of the project {project}, by {TITLE} dashboard"
    return Report(entity=entity, project=project, title=TITLE, description=description, blocks=blocks, width="fluid")


def describe(entity: str, project: str) -> dict[str, Any]:
    """Return the workspace that `publish` sends, without any request. For a report, W&B has to ask its server."""
    model = build_workspace(entity, project)._to_model()  # pyright: ignore[reportPrivateUsage]  # noqa: SLF001 -- it has no public form of this
    return json.loads(model.model_dump_json(by_alias=True, exclude_none=True))


def publish(entity: str, project: str) -> list[str]:
    """Create the workspace and the report at W&B, and return their addresses. `entity` may be empty: the account's."""
    entity = entity or str(wandb.Api().default_entity)
    workspace, report = build_workspace(entity, project), build_report(entity, project)
    return [workspace.save().url, report.save().url]


def _panels() -> dict[str, list[Any]]:
    """Return the panels by section."""

    def lines(title: str, *metrics: str, **settings: Any) -> wr.LinePlot:  # noqa: ANN401 -- of wr.LinePlot
        return wr.LinePlot(title=title, x="Step", y=list(metrics), **settings)

    def matching(title: str, regex: str, **settings: Any) -> wr.LinePlot:  # noqa: ANN401 -- of wr.LinePlot
        return wr.LinePlot(title=title, x="Step", metric_regex=regex, **settings)

    return {
        "Does it learn?": [
            lines("Accuracy in the tests", "test/accuracy", "test/ema_accuracy", "test/top5"),
            lines("Loss", "train/loss", "test/loss"),
            matching("Accuracy of each class", "test/class_accuracy/.*"),
            matching("Learning rates", "train/lr.*", log_y=True),
        ],
        "Layers": [
            lines("Norm of the gradient", "train/grad_norm", log_y=True),
            matching("Norm of each layer's gradient", "train/grad_norm/.*", log_y=True),
            matching("Update of each layer, divided by its weights", "train/update_ratio/.*", log_y=True),
        ],
        "The last test": [
            wr.WeavePanelSummaryTable(table_name=_TABLE),
            *(wr.MediaBrowser(title=name, media_keys=[f"final/{name}"]) for name in _PAGES),
            *(wr.ScalarChart(title=name, metric=f"final/{name}") for name in _NUMBERS),
        ],
        "Speed": [
            lines("Images a second", "train/images_per_second"),
            lines("Waiting for data", "train/data_wait"),
            matching("Milliseconds by phase", "train/.*_ms"),
            lines("TFLOP/s", "train/tflops"),
            lines("Peak memory", "train/peak_memory_bytes"),
        ],
    }
