import json
import sys

import pytest

from stylefinetune import dashboard
from stylefinetune.errors import UserError
from stylefinetune.tracking import dashboards
from tests.programs import python
from tests.wandb_runs import environment


def test_a_dry_run_prints_the_workspace(capsys):
    dashboard.make_dashboard(["--dry_run=true", "--project=styles"])
    assert json.loads(capsys.readouterr().out)["project"] == "styles"


def test_without_the_package_the_error_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb_workspaces.reports.v2", None)
    monkeypatch.delitem(sys.modules, "stylefinetune.tracking.dashboards.wandb_workspace", raising=False)
    monkeypatch.delattr(dashboards, "wandb_workspace", raising=False)
    with pytest.raises(UserError, match=r"pip install 'stylefinetune\[dashboard\]'"):
        dashboard.make_dashboard([])


def test_without_an_account_the_error_is_one_line(tmp_path):
    done = python("-m", "stylefinetune.dashboard", env=environment(tmp_path))
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith("error: Weights & Biases failed (")
    assert "Traceback" not in done.stderr
