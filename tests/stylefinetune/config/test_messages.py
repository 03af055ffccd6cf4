import pytest

from stylefinetune.config.keys import KEYS
from stylefinetune.config.messages import _ALIASES, _ELSEWHERE, _MEANT, suggestion


def test_every_suggested_key_exists_and_no_alias_has_two_meanings():
    assert set(_ALIASES) <= set(KEYS)
    assert len(_MEANT) == sum(len(aliases.split()) for aliases in _ALIASES.values())
    assert not set(_MEANT) & set(_ELSEWHERE)


@pytest.mark.parametrize("key", KEYS)
def test_a_keys_last_part_suggests_the_key_or_one_of_the_same_name(key):
    last = key.rpartition(".")[2]
    assert suggestion(last).endswith(f"{last}?")


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("Learning-Rate", "optim.base_lr"),
        ("optim.lr", "optim.base_lr"),
        ("data.batchsize", "data.batch_size"),
        ("momentun", "optim.momentum"),
        ("trian.max_iter", "train.max_iter"),
        ("pretrained", "weights"),
    ],
)
def test_habits_and_typing_errors_find_the_key(name, key):
    assert suggestion(name) == f"; did you mean {key}?"


def test_a_name_like_no_key_gets_the_help():
    assert suggestion("zzz") == "; --help all lists the keys"
