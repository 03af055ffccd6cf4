import json
import re

import pytest

from stylefinetune.tracking.dashboards.wandb_run import TABLE
from stylefinetune.tracking.dashboards.wandb_workspace import build_workspace, describe
from tests.programs import python
from tests.wandb_runs import environment
from tests.wandb_server import ENTITY, WandbServer

# What a run logs, of each kind.
LOGGED = ("test/accuracy", "test/top5", "test/loss", "train/loss", "train/grad_norm", "final/worst")
MATCHED = (
    "train/lr",
    "train/lr_x10",
    "train/grad_norm/fc8_flickr",
    "train/update_ratio/conv1",
    "test/class_accuracy/Noir",
)


def panels(workspace):
    return [panel for section in workspace.sections for panel in section.panels]


def test_the_panels_show_what_a_run_logs():
    shown = panels(build_workspace("me", "styles"))
    named = [name for panel in shown for field in ("y", "media_keys") for name in getattr(panel, field, None) or []]
    assert set(LOGGED) <= {getattr(name, "name", name) for name in named}
    assert [panel.table_name for panel in shown if hasattr(panel, "table_name")] == [TABLE]
    regexes = [panel.metric_regex for panel in shown if getattr(panel, "metric_regex", None)]
    assert [name for name in MATCHED if not any(re.fullmatch(regex, name) for regex in regexes)] == []


def test_the_description_needs_no_server_and_has_every_section():
    view = describe("me", "styles")
    sections = view["spec"]["section"]["panelBankConfig"]["sections"]
    assert [section["name"] for section in sections] == ["Does it learn?", "Layers", "The last test", "Speed"]
    assert (view["entity"], view["project"]) == ("me", "styles")


@pytest.mark.parametrize("flags", [[], ["--entity=team"]])
def test_a_workspace_and_a_report_are_sent(tmp_path, flags):
    with WandbServer() as server:
        done = python("-m", "stylefinetune.dashboard", *flags, env=environment(tmp_path, server))
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 2
    assert all(line.startswith(f"http://127.0.0.1:{server.port}/") for line in done.stdout.splitlines())
    workspace, report = server.views
    for sent in (workspace, report):
        assert (sent["projectName"], sent["entityName"]) == ("stylefinetune", "team" if flags else ENTITY)
        assert "train/update_ratio" in sent["spec"]
    assert json.loads(report["spec"])["blocks"]
