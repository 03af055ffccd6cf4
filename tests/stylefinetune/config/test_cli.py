import dataclasses
from pathlib import Path

import pytest

from stylefinetune.config import cli
from stylefinetune.config.cli import parse_config
from stylefinetune.config.optim import LayerRule
from stylefinetune.config.schema import Config
from stylefinetune.errors import UserError
from stylefinetune.optim.lr_schedule import learning_rate

RECIPES = sorted((Path(__file__).parents[3] / "configs" / "finetune").glob("*.yaml"))


def test_the_defaults_are_the_flickr_style_recipe_except_that_a_new_run_shuffles():
    config = parse_config([])
    assert config == Config()
    assert config.data.phase(training=True).shuffle
    assert (config.data.batch_size, config.data.phase(training=True).crop_size, config.data.mirror) == (50, 227, True)
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


CAFFES_ORDER = dataclasses.replace(Config().data, shuffle=False)
CAFFES_NAME = dataclasses.replace(Config().model, display_name="FlickrStyleCaffeNet")


def test_the_recipe_of_the_100k_run_lists_the_defaults_and_keeps_caffes_order():
    recipe = cli.load_config(next(path for path in RECIPES if path.stem == "flickr_style"))
    data = dataclasses.replace(CAFFES_ORDER, image_size=256, crop_size=227)  # not set, they follow the network
    assert recipe == Config(data=data, model=CAFFES_NAME)


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_the_recipes_of_caffes_example_keep_the_order_of_their_lists_and_others_shuffle(recipe):
    config = cli.load_config(recipe)
    assert config.data.shuffle is (False if config.model.arch == "caffenet" else None)


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
        "data": dataclasses.replace(CAFFES_ORDER, batch_size=400),
        "model": CAFFES_NAME,
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
        (["--nothing_like_it=1"], "unknown key nothing_like_it; --help all lists the keys"),
        (["--optim.base_lr=fast"], "optim.base_lr: Expected a float. Got value: fast"),
        (["--optim.lr_policy=sine"], "optim.lr_policy: Expected one of"),
        (["--optim.base_lr=-1"], "optim.base_lr is -1.0; it must not be negative"),
        (["--data.crop_size=300"], "data.crop_size is 300; it must be between 0 and the picture's side (256)"),
        (["--data.batch_size=0"], "data.batch_size is 0; it must be at least 1"),
        (["--data.workers=-1"], "data.workers is -1; it must not be negative"),
        (["--data.mean_value=[1,2]"], "data.mean_value has 2 values; give one, or three in the order B,G,R"),
        (["--data.mean_value=[1]", "--data.mean_file=a.npy"], "data.mean_file and data.mean_value are both set"),
        (["--model.widths=[8,16,24]"], "model.widths: Expected a tuple with 7 elements"),
        (["--model.widths=[7,16,24,24,16,32,32]"], "the first five must be even"),
        (["--model.last_layer="], "model.last_layer is ''; it must have 1 to 200 printable characters"),
        (["--optim.lr_policy=multistep"], "optim.stepvalue is empty"),
        (["--optim.stepvalue=[5,3]"], "the iterations must be ascending"),
        (["--optim.warmup_iter=-1"], "optim.warmup_iter is -1; it must not be negative"),
        (["--optim.lars_trust=-0.1"], "optim.lars_trust is -0.1; it must not be negative"),
        (["--train.precision=fp8"], "precision: Expected one of ['fp32', 'tf32', 'bf16', 'fp16']. Got value: fp8"),
        (["--train.max_iter=0"], "train.max_iter is 0; it must be at least 1"),
        (["--config=nowhere.yaml"], "--config nowhere.yaml can't be read: No such file"),
        (["--config=/"], "--config / can't be read: Is a directory"),
        (["--train.seed=9223372036854775808"], "train.seed is 9223372036854775808; it must be below 2**63"),
        (["stray"], "unknown arguments, neither a flag nor the value of one: stray"),
        (["--lr=0.1"], "unknown key lr; did you mean optim.base_lr?"),
        (["--lr", "0.1"], "unknown key lr; did you mean optim.base_lr?"),
        (["-lr", "0.1"], "unknown key lr; did you mean optim.base_lr?"),
        (["--batch-size=4"], "unknown key batch-size; did you mean data.batch_size?"),
        (["--train.base_lr=4"], "unknown key train.base_lr; did you mean optim.base_lr?"),
        (["--weight_decay=1"], "unknown key weight_decay; did you mean optim.weight_decay?"),
        (["--learning_rte=1"], "unknown key learning_rte; did you mean optim.base_lr?"),
        (["--epochs=9"], "unknown key epochs; did you mean train.epochs?"),
        (["--num_workers=9"], "unknown key num_workers; did you mean data.workers?"),
        (["--output=x"], "unknown key output; did you mean run_dir?"),
        (["--gpus=2"], "unknown key gpus; start one process for each GPU: torchrun --nproc_per_node N"),
        (["--arch=resnet50"], "unknown key arch; did you mean model.arch?"),
        (["--model=resnet50"], "model is 'resnet50'; it is a section of several keys; did you mean model.arch?"),
        (["--data", "pictures"], "data is 'pictures'; it is a section of several keys; did you mean data.shards?"),
        (["--model.name=resnet50"], "unknown key model.name; it is model.arch now"),
        (
            ["--model.arch=resnet50", "--model.last_layer=fc8_mine"],
            "model.last_layer is a setting of caffenet, and model.arch is resnet50; remove it",
        ),
        (["--model.arch=resnet50", "--model.dropout=1"], "model.dropout is 1.0; it must be in [0, 1)"),
        (["--train.epochs=2", "--train.max_iter=9"], "train.max_iter and train.epochs are both set; keep one of them"),
        (["--train.epochs=0"], "train.epochs is 0.0; it must be above 0"),
        (["--train.epochs=few"], "train.epochs: Expected one of float, null. Got value: few"),
        (["--optim.base_lr=.inf"], "optim.base_lr is inf; it must be a finite number"),
        (["--data.mean_value=nan"], "data.mean_value: Expected a float"),
        (
            ["--train.class_weights=few"],
            "train.class_weights: Expected one of ['balanced'], tuple[float, ...], null. Got",
        ),
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
        ("lr: 1", "broken.yaml: unknown key lr; did you mean optim.base_lr?"),
        ("model: resnet50", "broken.yaml: model is 'resnet50'; it is a section of several keys"),
        ("data: {test: 5}", "broken.yaml: data.test is 5; it is a section of several keys"),
        ("optim: {base_lr: fast}", "broken.yaml: optim.base_lr: Expected a float. Got value: fast"),
        ("optim: {weight_decay: .nan}", "optim.weight_decay"),
        ("train: {epochs: 2, max_iter: 5}", "broken.yaml: train.max_iter and train.epochs are both set; keep one"),
    ],
)
def test_an_error_in_the_file_is_one_line(tmp_path, text, line):
    file = tmp_path / "broken.yaml"
    file.write_text(text)
    with pytest.raises(UserError) as error:
        parse_config(["--config", str(file)])
    assert line in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("flags", "values"),
    [
        (["--data.mean_value=104,117,123"], (104.0, 117.0, 123.0)),
        (["--data.mean_value", "104", "117", "1e2"], (104.0, 117.0, 100.0)),
        (["--data.mean_value=104", "--data.mean_value=117", "--data.mean_value=123"], (104.0, 117.0, 123.0)),
        (["--data.mean_value=110"], (110.0,)),
        (["--data.mean_value=[1]", "--data.mean_value=[2]"], (2.0,)),
        (["--data.mean_value=1,2,3", "--data.mean_value=4,5,6"], (4.0, 5.0, 6.0)),
    ],
)
def test_a_list_may_be_given_without_brackets(flags, values):
    assert parse_config(flags).data.mean_value == values


def test_every_list_may_be_given_without_brackets(tmp_path):
    rules = ["--optim.layers={match: fc8_*, lr_mult: 10}", '--optim.layers={match: "*", lr_mult: 0}']
    config = parse_config([*rules, "--optim.stepvalue=10,20", "--data.image_size=300,280"])
    assert config.optim.layers == (LayerRule("fc8_*", 10.0), LayerRule("*", 0.0))
    assert (config.optim.stepvalue, config.data.image_size) == ((10, 20), (300, 280))
    assert parse_config(["--data.image_size=300", "--data.image_size=280"]).data.image_size == 280
    file = tmp_path / "mine.yaml"
    file.write_text("data: {mean_value: '104,117,123', test: {mean_value: 9}}\n")
    data = parse_config(["--config", str(file)]).data
    assert (data.mean_value, data.test.mean_value) == ((104.0, 117.0, 123.0), (9.0,))


@pytest.mark.parametrize(
    ("in_file", "flag", "expected"),
    [
        ("max_iter: 7", [], (7, None)),
        ("max_iter: 7", ["--train.epochs=2"], (7, 2.0)),  # epochs replace max_iter
        ("epochs: 3", [], (100000, 3.0)),
        ("epochs: 3", ["--train.max_iter=9"], (9, None)),
        ("epochs: 3", ["--train.epochs", "4.5"], (100000, 4.5)),
    ],
)
def test_the_later_length_of_the_run_counts(tmp_path, in_file, flag, expected):
    file = tmp_path / "mine.yaml"
    file.write_text(f"train: {{{in_file}}}\n")
    train = parse_config(["--config", str(file), *flag]).train
    assert (train.max_iter, train.epochs) == expected


def test_a_solvers_length_is_replaced_by_a_flag(tmp_path):
    (tmp_path / "solver").touch()
    keys = {"train": {"max_iter": 60}}
    train = parse_config(["--train.epochs=2", f"--solver={tmp_path / 'solver'}"], lambda _: keys).train
    assert train.epochs == 2


def test_a_binary_file_is_an_error(tmp_path):
    file = tmp_path / "broken.yaml"
    file.write_bytes(b"\xff\xfe: 1")
    with pytest.raises(UserError, match=r"broken\.yaml isn't YAML: .*can't decode"):
        parse_config(["--config", str(file)])


@pytest.mark.parametrize(("name", "match"), [("fc8_mine", "fc8_*"), ("fc8-mine", "fc8-mine"), ("my[1]", "my[[]1]")])
def test_the_default_rule_applies_to_a_last_layer_of_any_name(tmp_path, name, match):
    config = parse_config([f"--model.last_layer={name}"])
    assert config.optim.layers == (LayerRule(match, lr_mult=10.0),)
    (tmp_path / "config.yaml").write_text(cli.dump_config(config))
    assert cli.load_config(tmp_path / "config.yaml") == config
    given = ["--optim.layers=[{match: conv1, lr_mult: 0}]"]
    assert parse_config([f"--model.last_layer={name}", *given]).optim.layers == (LayerRule("conv1", lr_mult=0.0),)


def test_the_printed_settings_are_a_config_file(tmp_path, capsys):
    layers = '[{match: "conv*", freeze_until: 5}, {match: "*", lr_mult: 2}]'
    flags = [
        "--run_dir=runs/a",
        f"--optim.layers={layers}",
        "--data.mean_value=1,2,3",
        "--train.class_weights=balanced",
    ]
    with pytest.raises(SystemExit) as exit_:
        parse_config([*flags, "--print_config"])
    printed, errors = capsys.readouterr()
    assert (exit_.value.code, errors) == (None, "")
    (tmp_path / "printed.yaml").write_text(printed)
    assert parse_config([f"--config={tmp_path / 'printed.yaml'}"]) == parse_config(flags)
