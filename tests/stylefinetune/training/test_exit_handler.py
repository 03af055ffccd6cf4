import dataclasses
import itertools
import json
import re
import signal

import pytest
import torch

from stylefinetune.distributed.heartbeat import Heartbeat, LostRank
from stylefinetune.distributed.rank_monitor import RankMonitor
from stylefinetune.distributed.world import World
from stylefinetune.errors import CorruptError, DataError, LostRankError, NotFiniteError, Stopped, UserError
from stylefinetune.training import exit_handler
from stylefinetune.training.exit_handler import ExitHandler


class LostRankMonitor(RankMonitor):
    """A monitor that finds a lost rank."""

    lost = LostRank("rank 2 on n1 has died while reading data at iteration 41", 0)

    def find_lost_rank(self):
        return self.lost


def world(rank=0, size=1, kind=RankMonitor):
    return World(rank, size, torch.device("cpu"), kind(Heartbeat(rank, size, None), 60.0, launcher=None))


def end(run_dir, error, ranks=None, saved=None, newest=lambda: None):
    """End a run with `error`; return the content of exit.json and the exception raised."""
    ranks = ranks or world()
    ranks.set_activity("reading data", 41)
    raised = None
    try:
        with ExitHandler(run_dir, ranks, newest) as handler:
            if saved:
                handler.note_saved(saved)
            if error:
                raise error  # noqa: TRY301
    except BaseException as caught:  # noqa: BLE001
        raised = caught
    file = run_dir / "exit.json"
    return (json.loads(file.read_text()) if file.exists() else None), raised


def test_a_finished_run_replaces_the_record_of_an_earlier_end(tmp_path):
    (tmp_path / "exit.json").write_text("{}")
    record, raised = end(tmp_path, None, saved=tmp_path / "checkpoints" / "iter_41")
    assert raised is None
    assert record == {
        "code": 0,
        "reason": "finished",
        "signal": None,
        "message": "finished",
        "requeue": False,
        "iteration": 41,
        "checkpoint": str(tmp_path / "checkpoints" / "iter_41"),
        "restarts": 0,
    }
    assert [path.name for path in tmp_path.iterdir()] == ["exit.json"]


def test_the_record_of_an_earlier_end_is_removed_while_a_run_is_under_way(tmp_path):
    (tmp_path / "exit.json").write_text("{}")
    with ExitHandler(tmp_path, world()):
        assert not (tmp_path / "exit.json").exists()


@pytest.mark.parametrize(
    ("error", "code", "reason", "requeue"),
    [
        (Stopped(signal.SIGTERM, "stopped"), 143, "stopped", True),
        (Stopped(signal.SIGUSR1, "stopped"), 138, "stopped", True),
        (Stopped(signal.SIGINT, "stopped"), 130, "stopped", False),
        (Stopped(signal.SIGHUP, "stopped"), 129, "stopped", False),
        (UserError("mend it"), 2, "user error", False),
        (NotFiniteError("nan", 41), 3, "not finite", False),
        (CorruptError("too many"), 4, "data", False),
        (DataError("no shard"), 4, "data", False),
        (RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed. "), 4, "data", False),
        (RuntimeError("[enforce fail at alloc_cpu.cpp:9] err == 0. can't allocate memory"), 5, "out of memory", False),
        (MemoryError(), 5, "out of memory", False),
        (OSError(28, "No space left on device", "a/metrics.jsonl"), 2, "user error", False),
        (ZeroDivisionError("division by zero"), 1, "crash", False),
        (RuntimeError("a bug"), 1, "crash", False),
    ],
    ids=str,
)
def test_each_end_has_its_code_reason_and_requeue(tmp_path, error, code, reason, requeue):
    record, raised = end(tmp_path / "run", error)
    assert (record["code"], record["reason"], record["requeue"], record["iteration"]) == (code, reason, requeue, 41)
    assert getattr(raised, "code", code) == code


def test_a_temporary_failure_is_requeued_if_this_start_saved_a_checkpoint(tmp_path):
    record, _ = end(tmp_path / "a", DataError("no shard"), saved=tmp_path / "iter_40")
    assert (record["requeue"], record["checkpoint"]) == (True, str(tmp_path / "iter_40"))
    record, _ = end(
        tmp_path / "b", RuntimeError("Connection closed by peer"), world(0, 3, LostRankMonitor), tmp_path / "iter_40"
    )
    assert record["requeue"] is True
    record, _ = end(tmp_path / "c", CorruptError("too many"), saved=tmp_path / "iter_40")
    assert record["requeue"] is False  # a restart meets the same corrupt pictures
    record, _ = end(tmp_path / "d", NotFiniteError("nan", 41), saved=tmp_path / "iter_40")
    assert record["requeue"] is False


def test_the_recorded_iteration_is_the_one_in_the_message(tmp_path):
    record, _ = end(tmp_path / "a", NotFiniteError("the loss isn't finite at iteration 7", 7))
    assert record["iteration"] == 7

    class SlowRankMonitor(LostRankMonitor):
        lost = LostRank("rank 1 on n1 has died while reading data at iteration 40", 0, iteration=40)

    record, _ = end(tmp_path / "b", RuntimeError("Connection closed by peer"), world(0, 3, SlowRankMonitor))
    assert record["iteration"] == 40


@pytest.mark.parametrize("newest", ["iter_20", "iter_40"])
def test_any_rank_records_the_checkpoint_that_rank_0_saved(tmp_path, newest):
    found = itertools.chain([tmp_path / "iter_20"], itertools.repeat(tmp_path / newest))
    record, _ = end(tmp_path, DataError("no shard"), world(1, 3), newest=lambda: next(found))
    assert (record["checkpoint"], record["requeue"]) == (str(tmp_path / newest), newest != "iter_20")


def test_the_record_of_a_lost_rank_0_names_its_last_checkpoint(tmp_path):
    class LostRank0Monitor(LostRankMonitor):
        lost = LostRank("rank 0 on n1 has died while reading data at iteration 41", 1)

    found = itertools.chain([None], itertools.repeat(tmp_path / "iter_40"))
    ranks = world(1, 3, LostRank0Monitor)
    record, raised = end(tmp_path, RuntimeError("Connection closed by peer"), ranks, newest=lambda: next(found))
    assert (record["reason"], record["checkpoint"], record["requeue"]) == ("lost rank", str(tmp_path / "iter_40"), True)
    assert str(raised).endswith(f"run the same command again to continue from {tmp_path / 'iter_40'}")


def test_a_failed_collective_is_reported_as_the_lost_rank(tmp_path):
    record, raised = end(tmp_path / "reporter", RuntimeError("Connection closed by peer"), world(0, 3, LostRankMonitor))
    assert isinstance(raised, LostRankError)
    assert raised.reports
    assert str(raised) == f"{LostRankMonitor.lost.message}; run the same command again to start over"
    assert (record["code"], record["reason"], record["message"]) == (5, "lost rank", LostRankMonitor.lost.message)
    record, raised = end(tmp_path / "other", RuntimeError("Connection closed by peer"), world(1, 3, LostRankMonitor))
    assert (record, raised.reports) == (None, False)


def test_the_other_ranks_give_rank_0_time_to_report_an_error_of_all_ranks(tmp_path, monkeypatch):
    waits = []
    monkeypatch.setattr(exit_handler.time, "sleep", waits.append)
    end(tmp_path, UserError("mend it"), world(0, 2))
    end(tmp_path, DataError("no shard"), world(1, 2))  # which it reports itself
    assert waits == []
    end(tmp_path, UserError("mend it"), world(1, 2))
    assert waits == [2.0]


def test_rank_0_alone_records_an_error_that_all_ranks_raise(tmp_path, monkeypatch):
    monkeypatch.setattr(exit_handler, "_REPORT_SECONDS", 0.0)
    for error in (None, UserError("mend it"), Stopped(signal.SIGTERM, "stopped")):
        assert end(tmp_path, error, world(1, 2))[0] is None
    record, raised = end(tmp_path, DataError("no shard"), world(1, 2))
    assert record["message"] == "no shard"
    assert raised.__notes__[0].endswith("reading data at iteration 41)")


@pytest.mark.parametrize(
    ("error", "saved", "allowed"),
    [
        (UserError("mend it"), True, False),
        (NotFiniteError("nan", 41), True, False),
        (CorruptError("too many"), True, False),
        (Stopped(signal.SIGTERM, "stopped"), True, False),
        (ZeroDivisionError("a bug"), True, False),
        (DataError("no shard"), True, True),
        (DataError("no shard"), False, False),
        (MemoryError(), True, True),
        (MemoryError(), False, False),
        (LostRankError("rank 2 has died", reports=True), False, True),
        (None, True, True),
    ],
    ids=str,
)
def test_a_restart_by_torchrun_is_refused_where_it_cannot_help(tmp_path, error, saved, allowed):
    record, _ = end(tmp_path, error, saved=tmp_path / "iter_40" if saved else None)
    ExitHandler(tmp_path, world()).check_restart()  # a new command, not a restart by torchrun
    restarted = ExitHandler(tmp_path, dataclasses.replace(world(), restarts=2))
    if allowed:
        restarted.check_restart()
    else:
        with pytest.raises(
            UserError, match=re.escape(f"not restarted, since a restart can't help: {record['message']}")
        ) as caught:
            restarted.check_restart()
        assert caught.value.code == record["code"]


def test_a_restart_for_a_node_that_joined_or_left_is_allowed(tmp_path):
    once = dataclasses.replace(world(), restarts=1)
    record, _ = end(tmp_path, Stopped(signal.SIGTERM, "stopped"), once)
    assert record["restarts"] == 1
    ExitHandler(tmp_path, once).check_restart()


def test_a_restart_without_a_record_is_allowed(tmp_path):
    ExitHandler(tmp_path, dataclasses.replace(world(), restarts=1)).check_restart()
