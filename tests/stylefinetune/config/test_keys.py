from stylefinetune.config.keys import KEYS, LIST_KEYS, SECTIONS, join_repeated, list_of


def test_keys_and_sections_are_those_of_the_config():
    assert {"run_dir", "data.test.split", "optim.layers", "deepspeed.extra"} <= set(KEYS)
    assert set(SECTIONS) == {
        *("data", "data.augment", "data.test", "model", "optim", "train", "checkpoint", "tracking", "deepspeed"),
    }
    assert {"data.image_size", "data.test.mean_value", "optim.stepvalue", "optim.layers"} <= set(LIST_KEYS)
    assert not {"deepspeed.extra", "data.batch_size", "weights"} & set(LIST_KEYS)


def test_one_value_is_a_list_only_where_the_type_is_only_a_list():
    assert list_of("data.mean_value", 9) == [9]
    assert list_of("data.image_size", 256) == 256
    assert list_of("data.test.mean_value", None) is None
    assert list_of("data.image_size", "256, 200") == [256, 200]


def test_damaged_yaml_stays_for_the_parser():
    assert join_repeated("optim.stepvalue", ["[10"]) == "[10"
