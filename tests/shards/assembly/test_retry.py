import datetime as dt
import json
import re

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from shards.assembly import retry
from shards.errors import ShardsError
from shards.format import outcomes
from shards.format.outcomes import TRANSIENT_STATUSES, Status
from shards.storage.shard_dir import Block

BLOCK = Block("train", 0)
STATE = "blocks/retry.json"


def begin(root, text: str | None, task: str = ""):
    work = root / ".work"
    work.mkdir(exist_ok=True)
    return retry.begin_retry(root, text, work, task)


def write_ledger(root, *lines: tuple[str, dt.datetime]) -> None:
    common = {"key": "k", "image_url": "u", "split": "train", "label": 0, "attempts": 1, "seconds": 0.0, "message": ""}
    rows = [common | {"row": row, "status": status, "time": time} for row, (status, time) in enumerate(lines)]
    path = root / BLOCK.outcomes_part
    path.parent.mkdir(exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows, outcomes.OUTCOMES_SCHEMA), path)


def test_groups_and_names_are_understood():
    assert retry.parse_statuses("passing") == TRANSIENT_STATUSES
    assert retry.parse_statuses("failed") == set(Status) - {Status.KEPT, Status.DUPLICATE}
    assert retry.parse_statuses("not_found, timeout") == {Status.NOT_FOUND, Status.TIMEOUT}
    assert retry.parse_statuses("passing,duplicate") == TRANSIENT_STATUSES | {Status.DUPLICATE}


@pytest.mark.parametrize("text", ["nosuch", "timeout,nosuch", "", "kept", "failed,kept"])
def test_what_cannot_be_retried_is_one_line_with_what_can(text):
    name = text.rpartition(",")[2]
    with pytest.raises(ShardsError, match=f"--retry {name}: there is no such outcome") as error:
        retry.parse_statuses(text)
    offered = re.split(r"[:,] ", str(error.value).partition("one or more of")[2])[1:]
    assert set(offered) == {"failed", "passing", *Status} - {"kept"}
    assert "\n" not in str(error.value)


def test_rows_are_asked_for_again_by_their_status_and_only_once(tmp_path):
    now = dt.datetime.now(dt.UTC)
    before, after = now - dt.timedelta(hours=1), now + dt.timedelta(hours=1)
    lines = [("kept", before), ("timeout", before), ("gone", before), ("timeout", after), ("dns", before)]
    write_ledger(tmp_path, *lines)
    assert begin(tmp_path, "timeout").places(tmp_path, BLOCK) == [1]
    assert begin(tmp_path, "passing").places(tmp_path, BLOCK) == [1, 4]
    assert begin(tmp_path, "failed").places(tmp_path, BLOCK) == [1, 2, 4]


def test_a_retry_goes_on_until_it_has_ended(tmp_path):
    first = begin(tmp_path, "failed")
    state = json.loads((tmp_path / STATE).read_text())
    state["since"] = (first.since - dt.timedelta(hours=1)).isoformat()
    (tmp_path / STATE).write_text(json.dumps(state))
    assert begin(tmp_path, "failed").since == first.since - dt.timedelta(hours=1)
    retry.end_retry(tmp_path)
    assert not (tmp_path / STATE).exists()
    assert begin(tmp_path, "failed").since >= first.since


@pytest.mark.parametrize("text", [None, "gone"])
def test_another_command_forgets_a_retry_that_was_stopped(tmp_path, text):
    old = begin(tmp_path, "failed")
    state = json.loads((tmp_path / STATE).read_text()) | {"since": "2020-01-01T00:00:00+00:00"}
    (tmp_path / STATE).write_text(json.dumps(state))
    begin(tmp_path, text)
    assert begin(tmp_path, "failed").since >= old.since


def test_a_damaged_state_begins_the_retry_anew(tmp_path):
    begin(tmp_path, "failed")
    (tmp_path / STATE).write_text("{")
    assert begin(tmp_path, "failed").statuses == retry.parse_statuses("failed")


def test_each_task_has_a_retry_of_its_own(tmp_path):
    begin(tmp_path, "failed", "-0-of-2")
    begin(tmp_path, None, "-1-of-2")
    assert [path.name for path in (tmp_path / "blocks").iterdir()] == ["retry-0-of-2.json"]
