import dataclasses
from pathlib import Path

import pytest

from stylefinetune.config import cli
from stylefinetune.config.cli import parse_config
from stylefinetune.config.schema import Config, LayerRule
from stylefinetune.errors import UserError
from stylefinetune.optim.lr_schedule import learning_rate

RECIPES = sorted((Path(__file__).parents[3] / "configs" / "finetune").glob("*.yaml"))


def test_the_defaults_are_the_flickr_style_recipe():
    config = parse_config([])
    assert config == Config()
    assert (config.data.batch_size, config.data.crop_size, config.data.mirror) == (50, 227, True)
    assert (config.optim.base_lr, config.optim.stepsize, config.optim.gamma) == (0.001, 20000, 0.1)
    assert (config.optim.momentum, config.optim.weight_decay) == (0.9, 0.0005)
    assert (config.train.max_iter, config.train.display, config.train.test_interval) == (100000, 20, 1000)
    assert config.checkpoint.snapshot == 10000


def test_flags_override_the_file_and_the_file_overrides_the_defaults(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text("run_dir: runs/mine\noptim: {base_lr: 0.5, gamma: 0.2}\n")
    config = parse_config(["--config", str(file), "--optim.base_lr=0.25", "--data.mean_value=[104, 117, 123]"])
    assert (config.run_dir, config.optim.base_lr, config.optim.gamma) == ("runs/mine", 0.25, 0.2)
    assert config.data.mean_value == (104.0, 117.0, 123.0)
    assert config.optim.momentum == 0.9


def test_layer_rules_are_read_in_order(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text('optim: {layers: [{match: "fc8_*", lr_mult: 10}, {match: "*", lr_mult: 0, bias_lr_mult: 1}]}\n')
    rules = parse_config(["--config", str(file)]).optim.layers
    assert rules == (LayerRule("fc8_*", 10.0), LayerRule("*", 0.0, bias_lr_mult=1.0))


def test_a_dumped_config_is_loaded_equal(tmp_path):
    config = parse_config(
        ["--optim.layers=[{match: conv*, lr_mult: 0}]", "--data.test.crop_size=200", "--train.seed=5"]
    )
    file = tmp_path / "config.yaml"
    file.write_text(cli.dump_config(config))
    assert cli.load_config(file) == config


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_every_recipe_is_valid_and_begins_with_cost_expectation_and_command(recipe):
    config = cli.load_config(recipe)
    assert config.run_dir == f"runs/{recipe.stem}"
    opening = recipe.read_text().split("\n\n")[0]
    assert all(f"# {word}:" in opening for word in ("Cost", "Expected", "Command"))
    assert f"--config configs/finetune/{recipe.name}" in opening


def test_the_recipe_of_the_100k_run_lists_the_defaults():
    recipe = cli.load_config(next(path for path in RECIPES if path.stem == "flickr_style"))
    assert recipe == Config()


def test_the_recipe_for_8_gpus_reads_the_same_pictures_in_batches_of_eight_times_the_size():
    large, small = cli.load_config(next(path for path in RECIPES if path.stem == "flickr_style_8gpu")), Config()
    assert large.data.batch_size == 8 * small.data.batch_size
    for ours, theirs in (
        (large.train.max_iter, small.train.max_iter),
        (large.train.test_interval, small.train.test_interval),
        (large.checkpoint.snapshot, small.checkpoint.snapshot),
        (large.optim.stepsize, small.optim.stepsize),
    ):
        assert ours * large.data.batch_size == theirs * small.data.batch_size
    assert large.optim.base_lr == 8 * small.optim.base_lr
    assert learning_rate(large.optim, 0, large.train.max_iter) < small.optim.base_lr
    for fraction in (0.1, 0.3, 0.99):
        theirs = learning_rate(small.optim, round(fraction * small.train.max_iter), small.train.max_iter)
        assert learning_rate(large.optim, round(fraction * large.train.max_iter), large.train.max_iter) == 8 * theirs
    scaled = {
        "run_dir": large.run_dir,
        "data": dataclasses.replace(small.data, batch_size=400),
        "optim": dataclasses.replace(small.optim, base_lr=0.008, warmup_iter=800, stepsize=2500),
        "train": dataclasses.replace(small.train, max_iter=12500, test_interval=125),
        "checkpoint": dataclasses.replace(small.checkpoint, snapshot=1250),
    }
    assert large == dataclasses.replace(small, **scaled)


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["--optim.base_lrr=1"], "unknown key optim.base_lrr; did you mean optim.base_lr?"),
        (["--deepspeed.zero_stag=2"], "unknown key deepspeed.zero_stag; did you mean deepspeed.zero_stage?"),
        (["--print_deepspeed"], "unknown key print_deepspeed"),
        (["--deepspeed.precision=bf16"], "unknown key deepspeed.precision; did you mean train.precision?"),
        (["--nothing_like_it=1"], "unknown key nothing_like_it; --help lists the keys"),
        (["--optim.base_lr=fast"], "optim.base_lr: Expected a float. Got value: fast"),
        (["--optim.lr_policy=cosine"], "optim.lr_policy: Expected a one of"),
        (["--optim.base_lr=-1"], "optim.base_lr is -1.0; it must not be negative"),
        (["--data.crop_size=300"], "data.crop_size is 300; it must be between 0 and the picture's side (256)"),
        (["--data.batch_size=0"], "data.batch_size is 0; it must be at least 1"),
        (["--data.workers=-1"], "data.workers is -1; it must not be negative"),
        (["--data.mean_value=[1,2]"], "data.mean_value has 2 values; give one, or three in the order B,G,R"),
        (["--data.mean_value=[1]", "--data.mean_file=a.npy"], "data.mean_file and data.mean_value are both set"),
        (["--model.widths=[8,16,24]"], "model.widths: Expected a tuple with 7 elements"),
        (["--model.widths=[7,16,24,24,16,32,32]"], "the first five must be even"),
        (["--model.last_layer=fc8.x"], "model.last_layer is 'fc8.x'; use letters, digits and underscores"),
        (["--optim.lr_policy=multistep"], "optim.stepvalue is empty"),
        (["--optim.stepvalue=[5,3]"], "the iterations must be ascending"),
        (["--optim.warmup_iter=-1"], "optim.warmup_iter is -1; it must not be negative"),
        (["--optim.lars_trust=-0.1"], "optim.lars_trust is -0.1; it must not be negative"),
        (["--train.precision=fp8"], "train.precision: Expected a one of ['fp32', 'bf16', 'fp16']. Got value: fp8"),
        (["--train.max_iter=0"], "train.max_iter is 0; it must be at least 1"),
        (["--config=nowhere.yaml"], "--config nowhere.yaml can't be read: No such file"),
        (["--config=/"], "--config / can't be read: Is a directory"),
        (["--train.seed=9223372036854775808"], "train.seed is 9223372036854775808; it must be below 2**63"),
        (["stray"], "stray"),
    ],
)
def test_an_error_is_one_line_that_names_key_value_and_remedy(arguments, line):
    with pytest.raises(UserError) as error:
        parse_config(arguments)
    assert line in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("optim: {base_lrr: 1}", "unknown key optim.base_lrr; did you mean optim.base_lr?"),
        ("optim: {layers: [{match: a, lr: 3}]}", "lr"),
        ("optim: [", "broken.yaml isn't YAML"),
        ("- a\n- b\n", "broken.yaml has no keys"),
        ("", "broken.yaml has no keys"),
        ("solver: {base_lr: 1}", "solver"),
        ("train: {seed: 1}\noptim: {}\ntrain: {display: 1}\n", "merge the two `train` sections; the second is in"),
        ("train:\n  seed: 1\n  seed: 2\n", 'broken.yaml", line 3'),
        ("optim: {layers: [{match: a, match: b}]}", "merge the two `match` sections"),
    ],
)
def test_an_error_in_the_file_is_one_line(tmp_path, text, line):
    file = tmp_path / "broken.yaml"
    file.write_text(text)
    with pytest.raises(UserError) as error:
        parse_config(["--config", str(file)])
    assert line in str(error.value)
    assert "\n" not in str(error.value)


def test_a_binary_file_is_an_error(tmp_path):
    file = tmp_path / "broken.yaml"
    file.write_bytes(b"\xff\xfe: 1")
    with pytest.raises(UserError, match=r"broken\.yaml isn't YAML: .*can't decode"):
        parse_config(["--config", str(file)])
