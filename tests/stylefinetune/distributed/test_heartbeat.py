import os
import socket

import torch.distributed as dist

from stylefinetune.distributed.heartbeat import Heartbeat, LostRank, RankState


def test_ranks_read_each_others_state():
    store = dist.HashStore()
    heartbeats = [Heartbeat(rank, 2, store) for rank in range(2)]
    for rank, heartbeat in enumerate(heartbeats):
        heartbeat.set_activity("reading data", 41 + rank)
        heartbeat.publish()
    host, pid = socket.gethostname(), os.getpid()
    expected = [RankState(rank, host, pid, "reading data", 41 + rank, sequence=1, heartbeats=1) for rank in range(2)]
    assert heartbeats[0].read_states() == heartbeats[1].read_states() == expected
    assert str(heartbeats[0].state) == "reading data at iteration 41"


def test_the_other_ranks_read_an_announced_exit():
    store = dist.HashStore()
    heartbeats = [Heartbeat(rank, 2, store) for rank in range(2)]
    for heartbeat in heartbeats:
        heartbeat.publish()
    assert heartbeats[0].announced_exit() is None
    reason = LostRank("rank 1 on n1: the disk is full", 1, code=2)
    heartbeats[1].announce_exit(reason)
    assert heartbeats[0].announced_exit() == reason
    assert heartbeats[1].announced_exit() is None


def test_a_world_of_one_publishes_nothing():
    alone = Heartbeat(0, 1, None)
    alone.publish()
    assert not alone.is_shared
    assert (alone.read_states(), alone.announced_exit()) == ([], None)
