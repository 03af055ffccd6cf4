import pytest

from stylefinetune.config.cli import parse_config
from stylefinetune.config.keys import KEYS
from stylefinetune.config.messages import _ALIASES, _ELSEWHERE, _MEANT, suggestion
from stylefinetune.errors import UserError


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


@pytest.mark.parametrize(
    ("rules", "line"),
    [
        ("[{match: a, lr: 10}]", "a rule has no key lr; did you mean lr_mult?"),
        (
            "{fc8: 10}",
            "a rule has no key fc8; its keys are match, lr_mult, decay_mult, bias_lr_mult, bias_decay_mult",
        ),
        ("[fc8]", 'it is not a list of rules; write for example [{match: "fc8_*", lr_mult: 10}]'),
        ("3", 'it is not a list of rules; write for example [{match: "fc8_*", lr_mult: 10}]'),
        ("[{lr_mult: 2}]", 'a rule has no key match; write for example [{match: "fc8_*", lr_mult: 10}]'),
        ("[{match: a, freeze_until: 1.5}]", "freeze_until is 1.5; it must be an integer"),
        ("[{match: a, bias_lr_mult: ten}]", "bias_lr_mult is ten; it must be a number"),
        ("[{match: [a]}]", "match is ['a']; it must be text"),
    ],
)
def test_a_mistake_in_a_rule_names_its_key(rules, line):
    with pytest.raises(UserError) as error:
        parse_config([f"--optim.layers={rules}"])
    assert str(error.value).startswith(f"optim.layers: {line}")


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("run_dir:", "run_dir"),
        ("optim: {base_lr: }", "optim.base_lr"),
        ("train: {compile: }", "train.compile"),
        ("model: {widths: null}", "model.widths"),
        ("data: {augment: {policy: ~}}", "data.augment.policy"),
    ],
)
def test_a_key_with_nothing_after_its_colon_has_no_value(text, key, tmp_path):
    (tmp_path / "config.yaml").write_text(text)
    with pytest.raises(UserError) as error:
        parse_config([f"--config={tmp_path / 'config.yaml'}"])
    assert str(error.value) == f"{key} has no value; give one, or remove the key"


def test_a_rule_without_a_value_and_a_section_without_keys_are_one_line(tmp_path):
    with pytest.raises(UserError, match=r"^optim\.layers\.lr_mult has no value; give one, or remove the key$"):
        parse_config(["--optim.layers=[{match: a, lr_mult: null}]"])
    (tmp_path / "config.yaml").write_text("optim:\n  # base_lr: 0.1\n")
    with pytest.raises(UserError, match=r"config\.yaml: optim has no keys; give some, or remove it$"):
        parse_config([f"--config={tmp_path / 'config.yaml'}"])
