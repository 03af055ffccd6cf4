import pytest

from stylefinetune.init.recipe import choose_recipe, imbalance


@pytest.mark.parametrize(("pictures", "size"), [(20_000, 64), (1_279, 32), (640, 32), (639, 16), (30, 8), (None, 32)])
def test_the_batch_leaves_enough_updates_in_a_pass(pictures, size):
    assert choose_recipe("resnet50", "DEFAULT", 10, pictures, None).batch_size == size


def test_tests_are_a_pass_apart_and_the_warm_up_is_a_twentieth_of_the_run():
    recipe = choose_recipe("resnet50", "DEFAULT", 10, 6_400, 64)
    assert (recipe.batch_size, recipe.test_interval, recipe.warmup_iter) == (64, 100, 50)
    assert recipe.test_reason == "iterations; a pass over the training pictures takes 100"
    assert choose_recipe("resnet50", "DEFAULT", 0.1, 8, 8).warmup_iter == 1


@pytest.mark.parametrize(
    ("arch", "weights", "optimizer", "rate"),
    [
        ("resnet50", "DEFAULT", None, 0.001),
        ("resnet50", None, None, 0.01),
        ("vit_b_16", "DEFAULT", "adamw", 0.0001),
        ("timm/convnext_tiny", "DEFAULT", "adamw", 0.0001),
    ],
)
def test_the_optimizer_is_that_with_which_the_networks_are_trained(arch, weights, optimizer, rate):
    settings = {key: value for key, value, _ in choose_recipe(arch, weights, 10, 100, None).optim}
    assert (settings.get("optimizer"), settings["base_lr"]) == (optimizer, rate)


def test_uneven_classes_are_pointed_out():
    assert imbalance({"cat": 2, "dog": 32}) == "dog has 32 training pictures and cat 2"
    assert imbalance({"cat": 4, "dog": 32}) is None
    assert imbalance({}) is None
