import json
import signal

import pytest

from stylefinetune.ending import FILE, Ending
from stylefinetune.errors import EXIT_USER_ERROR, UserError
from stylefinetune.world import World


@pytest.fixture
def world():
    world = World.join(deterministic=False)
    yield world
    world.leave()


def ended(run_dir):
    return json.loads((run_dir / FILE).read_text())


def test_a_run_that_finished_says_so(world, tmp_path):
    with Ending(tmp_path, world):
        assert not (tmp_path / FILE).exists()
    told = ended(tmp_path)
    assert (told["code"], told["reason"], told["requeue"]) == (0, "finished", False)


def test_what_an_earlier_run_left_is_gone_as_soon_as_another_starts(world, tmp_path):
    (tmp_path / FILE).write_text("{}")
    with Ending(tmp_path, world):
        assert not (tmp_path / FILE).exists()


def test_a_users_mistake_is_not_to_be_tried_again(world, tmp_path):
    with pytest.raises(UserError, match="no such shards"), Ending(tmp_path, world):
        raise UserError("no such shards")
    told = ended(tmp_path)
    assert (told["code"], told["message"], told["requeue"]) == (EXIT_USER_ERROR, "no such shards", False)
    assert told["signal"] is None


@pytest.mark.parametrize(("by", "again"), [(signal.SIGUSR1, True), (signal.SIGINT, False)])
def test_only_what_a_scheduler_sends_asks_for_another_start(world, tmp_path, by, again):
    from stylefinetune.errors import Stopped

    with pytest.raises(Stopped), Ending(tmp_path, world):
        raise Stopped(by, f"stopped by {by.name}")
    told = ended(tmp_path)
    assert (told["signal"], told["requeue"]) == (by.name, again)
