import pytest
from torch.distributed import HashStore

from stylefinetune import peers
from stylefinetune.peers import Loss, Peers


@pytest.fixture
def two(monkeypatch):
    """Two ranks of one store, of which only the first looks."""
    monkeypatch.setattr(peers, "BEAT", 0.05)
    store = HashStore()
    ranks = [Peers(rank, 2, store, limit=60.0, launched=False) for rank in range(2)]
    for rank in ranks:
        rank.start()
    yield ranks
    for rank in ranks:
        rank.close()


def test_while_all_live_and_are_level_none_is_lost(two):
    assert two[0].lost() is None


def test_one_that_tells_nothing_new_is_named_with_what_it_did(two):
    two[1].doing("reading data", 41)
    two[1].end(Loss("", 1))  # tells what it does, once; then it is silent
    two[1].close()
    two[1]._ending = None
    two[1]._tell()
    lost = two[0].lost()
    assert lost is not None
    assert lost.line.startswith("rank 1 on ")
    assert "while reading data at iteration 41" in lost.line
    assert lost.speaker == 0


def test_the_last_word_of_one_that_cant_go_on_is_believed(two):
    word = Loss("rank 1 on here: its disk is full", 1, 3)
    two[1].end(word)
    assert two[0].told() == word
    assert two[0].lost() == word


def test_one_that_is_behind_is_named(two):
    for rank in two:
        rank.doing("training", 7)
    two[0].doing("summing gradients", 7)
    lost = two[0].lost()
    assert lost is not None
    assert "rank 1" in lost.line
    assert "has stalled" in lost.line
