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


def begin(root, text: str | None, suffix: str = ""):
    work = root / ".work"
    work.mkdir(exist_ok=True)
    return retry.begin_retry(root, text, work, suffix)


def write_outcomes(root, *lines: tuple[str, dt.datetime]) -> None:
    common = {"key": "k", "image_url": "u", "split": "train", "label": 0, "attempts": 1, "seconds": 0.0, "message": ""}
    rows = [common | {"row": row, "status": status, "time": time} for row, (status, time) in enumerate(lines)]
    path = root / BLOCK.outcomes_part
    path.parent.mkdir(exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows, outcomes.OUTCOMES_SCHEMA), path)


def test_groups_and_statuses_are_parsed():
    assert retry.parse_statuses("passing") == TRANSIENT_STATUSES
    assert retry.parse_statuses("failed") == set(Status) - {Status.KEPT, Status.DUPLICATE}
    assert retry.parse_statuses("not_found, timeout") == {Status.NOT_FOUND, Status.TIMEOUT}
    assert retry.parse_statuses("passing,duplicate") == TRANSIENT_STATUSES | {Status.DUPLICATE}


@pytest.mark.parametrize("text", ["nosuch", "timeout,nosuch", "", "kept", "failed,kept"])
def test_an_invalid_value_is_an_error_with_all_valid_values(text):
    name = text.rpartition(",")[2]
    with pytest.raises(ShardsError, match=f"--retry {name} is not a status that can be retried") as error:
        retry.parse_statuses(text)
    offered = re.split(r"[:,] ", str(error.value).partition("one or more of")[2])[1:]
    assert set(offered) == {"failed", "passing", *Status} - {"kept"}
    assert "\n" not in str(error.value)


def test_rows_are_selected_by_status_and_only_once(tmp_path):
    now = dt.datetime.now(dt.UTC)
    before, after = now - dt.timedelta(hours=1), now + dt.timedelta(hours=1)
    lines = [("kept", before), ("timeout", before), ("gone", before), ("timeout", after), ("dns", before)]
    write_outcomes(tmp_path, *lines)
    assert begin(tmp_path, "timeout").positions(tmp_path, BLOCK) == [1]
    assert begin(tmp_path, "passing").positions(tmp_path, BLOCK) == [1, 4]
    assert begin(tmp_path, "failed").positions(tmp_path, BLOCK) == [1, 2, 4]


def test_a_retry_is_resumed_until_it_is_complete(tmp_path):
    first = begin(tmp_path, "failed")
    state = json.loads((tmp_path / STATE).read_text())
    state["since"] = (first.since - dt.timedelta(hours=1)).isoformat()
    (tmp_path / STATE).write_text(json.dumps(state))
    assert begin(tmp_path, "failed").since == first.since - dt.timedelta(hours=1)
    retry.end_retry(tmp_path)
    assert not (tmp_path / STATE).exists()
    assert begin(tmp_path, "failed").since >= first.since


@pytest.mark.parametrize("text", [None, "gone"])
def test_another_command_removes_an_unfinished_retry(tmp_path, text):
    old = begin(tmp_path, "failed")
    state = json.loads((tmp_path / STATE).read_text()) | {"since": "2020-01-01T00:00:00+00:00"}
    (tmp_path / STATE).write_text(json.dumps(state))
    begin(tmp_path, text)
    assert begin(tmp_path, "failed").since >= old.since


def test_a_damaged_state_file_starts_a_new_retry(tmp_path):
    begin(tmp_path, "failed")
    (tmp_path / STATE).write_text("{")
    assert begin(tmp_path, "failed").statuses == retry.parse_statuses("failed")


def test_each_partition_has_a_separate_retry(tmp_path):
    begin(tmp_path, "failed", "-0-of-2")
    begin(tmp_path, None, "-1-of-2")
    assert [path.name for path in (tmp_path / "blocks").iterdir()] == ["retry-0-of-2.json"]
