import dataclasses
import itertools
import json
import re
import signal

import pytest
import torch

from stylefinetune.distributed.heartbeat import Heartbeat, LostRank
from stylefinetune.distributed.world import World
from stylefinetune.errors import CorruptError, DataError, LostRankError, NotFiniteError, Stopped, UserError
from stylefinetune.training.exit_record import ExitRecord


class Lost(Heartbeat):
    """Peers of which one is lost."""

    loss = LostRank("rank 2 on n1 has died while reading data at iteration 41", 0)

    def find_lost_rank(self):
        return self.loss


def world(rank=0, size=1, kind=Heartbeat):
    return World(rank, size, torch.device("cpu"), kind(rank, size, None, 60.0, launched=False))


def end(run_dir, error, ranks=None, saved=None, newest=lambda: None):
    """Ends a block with `error`, and returns what exit.json says and what was raised."""
    ranks = ranks or world()
    ranks.set_activity("reading data", 41)
    raised = None
    try:
        with ExitRecord(run_dir, ranks, newest) as ending:
            if saved:
                ending.note_saved(saved)
            if error:
                raise error  # noqa: TRY301
    except BaseException as caught:  # noqa: BLE001
        raised = caught
    file = run_dir / "exit.json"
    return (json.loads(file.read_text()) if file.exists() else None), raised


def test_a_run_that_finished_says_so_in_place_of_what_an_earlier_one_said(tmp_path):
    (tmp_path / "exit.json").write_text("{}")
    told, raised = end(tmp_path, None, saved=tmp_path / "checkpoints" / "iter_41")
    assert raised is None
    assert told == {
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


def test_nothing_is_left_of_an_earlier_end_while_a_run_is_under_way(tmp_path):
    (tmp_path / "exit.json").write_text("{}")
    with ExitRecord(tmp_path, world()):
        assert not (tmp_path / "exit.json").exists()


@pytest.mark.parametrize(
    ("error", "code", "reason", "requeue"),
    [
        (Stopped(signal.SIGTERM, "stopped"), 143, "stopped", True),
        (Stopped(signal.SIGUSR1, "stopped"), 138, "stopped", True),
        (Stopped(signal.SIGINT, "stopped"), 130, "stopped", False),
        (Stopped(signal.SIGHUP, "stopped"), 129, "stopped", False),
        (UserError("mend it"), 2, "user error", False),
        (NotFiniteError("nan"), 3, "not finite", False),
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
def test_every_end_has_its_code_and_says_whether_to_start_again(tmp_path, error, code, reason, requeue):
    told, raised = end(tmp_path / "run", error)
    assert (told["code"], told["reason"], told["requeue"], told["iteration"]) == (code, reason, requeue, 41)
    assert getattr(raised, "code", code) == code


def test_what_may_pass_is_started_again_if_this_start_got_further(tmp_path):
    told, _ = end(tmp_path / "a", DataError("no shard"), saved=tmp_path / "iter_40")
    assert (told["requeue"], told["checkpoint"]) == (True, str(tmp_path / "iter_40"))
    told, _ = end(tmp_path / "b", RuntimeError("Connection closed by peer"), world(0, 3, Lost), tmp_path / "iter_40")
    assert told["requeue"] is True
    told, _ = end(tmp_path / "c", CorruptError("too many"), saved=tmp_path / "iter_40")
    assert told["requeue"] is False  # it would be as many again
    told, _ = end(tmp_path / "d", NotFiniteError("nan"), saved=tmp_path / "iter_40")
    assert told["requeue"] is False


@pytest.mark.parametrize("newest", ["iter_20", "iter_40"])
def test_any_rank_tells_of_what_the_lead_has_saved(tmp_path, newest):
    found = itertools.chain([tmp_path / "iter_20"], itertools.repeat(tmp_path / newest))
    told, _ = end(tmp_path, DataError("no shard"), world(1, 3), newest=lambda: next(found))
    assert (told["checkpoint"], told["requeue"]) == (str(tmp_path / newest), newest != "iter_20")


def test_a_rank_that_tells_of_the_lost_lead_names_what_that_has_saved(tmp_path):
    class LostLead(Lost):
        loss = LostRank("rank 0 on n1 has died while reading data at iteration 41", 1)

    found = itertools.chain([None], itertools.repeat(tmp_path / "iter_40"))
    lost = world(1, 3, LostLead)
    told, raised = end(tmp_path, RuntimeError("Connection closed by peer"), lost, newest=lambda: next(found))
    assert (told["reason"], told["checkpoint"], told["requeue"]) == ("lost rank", str(tmp_path / "iter_40"), True)
    assert str(raised).endswith(f"the same command goes on from {tmp_path / 'iter_40'}")


def test_a_collective_that_fails_is_told_as_the_rank_that_is_lost(tmp_path):
    told, raised = end(tmp_path / "lead", RuntimeError("Connection closed by peer"), world(0, 3, Lost))
    assert isinstance(raised, LostRankError)
    assert raised.speaks
    assert str(raised) == f"{Lost.loss.line}; the same command goes on from the start"
    assert (told["code"], told["reason"], told["message"]) == (5, "lost rank", Lost.loss.line)
    told, raised = end(tmp_path / "other", RuntimeError("Connection closed by peer"), world(1, 3, Lost))
    assert (told, raised.speaks) == (None, False)


def test_only_the_lead_writes_what_all_ranks_meet_alike(tmp_path):
    for error in (None, UserError("mend it"), Stopped(signal.SIGTERM, "stopped")):
        assert end(tmp_path, error, world(1, 2))[0] is None
    told, raised = end(tmp_path, DataError("no shard"), world(1, 2))
    assert told["message"] == "no shard"
    assert raised.__notes__[0].endswith("reading data at iteration 41)")


def test_the_first_to_tell_is_believed(tmp_path):
    with ExitRecord(tmp_path, world()) as ending:
        ending._write(4, "data", "no shard")
    assert json.loads((tmp_path / "exit.json").read_text())["message"] == "no shard"


@pytest.mark.parametrize(
    ("error", "saved", "tried_again"),
    [
        (UserError("mend it"), True, False),
        (NotFiniteError("nan"), True, False),
        (CorruptError("too many"), True, False),
        (Stopped(signal.SIGTERM, "stopped"), True, False),
        (ZeroDivisionError("a bug"), True, False),
        (DataError("no shard"), True, True),
        (DataError("no shard"), False, False),
        (MemoryError(), True, True),
        (MemoryError(), False, False),
        (LostRankError("rank 2 has died", speaks=True), False, True),
        (None, True, True),
    ],
    ids=str,
)
def test_torchrun_starting_the_ranks_anew_gets_further_only_where_that_can_help(tmp_path, error, saved, tried_again):
    told, _ = end(tmp_path, error, saved=tmp_path / "iter_40" if saved else None)
    ExitRecord(tmp_path, world()).refuse_hopeless_restart()  # the next command, not torchrun's doing
    anew = ExitRecord(tmp_path, dataclasses.replace(world(), restarts=2))
    if tried_again:
        anew.refuse_hopeless_restart()
    else:
        with pytest.raises(UserError, match=re.escape(f"not tried again by torchrun: {told['message']}")) as caught:
            anew.refuse_hopeless_restart()
        assert caught.value.code == told["code"]


def test_ranks_that_torchrun_starts_anew_for_a_node_that_came_or_went_go_on(tmp_path):
    once = dataclasses.replace(world(), restarts=1)
    told, _ = end(tmp_path, Stopped(signal.SIGTERM, "stopped"), once)
    assert told["restarts"] == 1
    ExitRecord(tmp_path, once).refuse_hopeless_restart()


def test_without_a_word_of_the_end_before_ranks_that_torchrun_starts_anew_go_on(tmp_path):
    ExitRecord(tmp_path, dataclasses.replace(world(), restarts=1)).refuse_hopeless_restart()
