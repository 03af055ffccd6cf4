import dataclasses
from types import SimpleNamespace

import pytest

from stylefinetune.checkpoint.resume import changed_settings
from stylefinetune.config.cli import load_config, parse_config
from stylefinetune.config.data import DataConfig
from stylefinetune.config.schema import Config, ModelConfig
from stylefinetune.data.dataset import open_index
from stylefinetune.errors import UserError
from stylefinetune.training.preprocessing import describe_input, lost_aspect_ratio, resolve_preprocessing
from tests.drawn_checkpoints import save
from tests.programs import ROOT

MEAN, STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)


def resolved(*flags, resumed=None):
    return resolve_preprocessing(parse_config(list(flags)), resumed).data


def sizes(data):
    phases = data.phase(training=True), data.phase(training=False)
    return [(phase.image_size[0], phase.crop_size) for phase in phases]


def test_a_new_run_of_caffenet_has_caffes_input():
    data = resolved()
    assert (data.resize, data.channels, data.image_size, data.crop_size) == ("warp", "bgr", 256, 227)
    assert (data.mean_value, data.std_value) == ((), ())
    with pytest.raises(UserError, match=r"data\.crop_size is 227; it must be between 0 and the picture's side \(48\)"):
        resolved("--data.image_size=48")


def test_a_new_run_of_another_network_follows_its_weights():
    data = resolved("--model.arch=resnet50", "--weights=IMAGENET1K_V1")
    assert (data.resize, data.interpolation, data.channels) == ("shorter_side", "bilinear", "rgb")
    assert (data.image_size, data.crop_size, data.mean_value, data.std_value) == (256, 224, MEAN, STD)
    assert resolved("--model.arch=resnet50", "--weights=a.pth,IMAGENET1K_V2").image_size == 232


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (["--data.crop_size=112"], [(116, 112)] * 2),
        (["--data.image_size=48"], [(48, 48)] * 2),
        (["--data.image_size=300"], [(300, 224)] * 2),
        (["--data.crop_size=176", "--data.test.crop_size=224"], [(232, 176), (232, 224)]),
        (["--data.resize=warp"], [(232, 224)] * 2),
    ],
)
def test_a_size_that_is_set_keeps_the_part_of_the_picture_that_the_crop_is(flags, expected):
    assert sizes(resolved("--model.arch=resnet50", "--weights=DEFAULT", *flags)) == expected


def test_each_key_that_is_set_overrides_the_weights():
    network = ("--model.arch=resnet50", "--weights=DEFAULT")
    caffes = "--data.resize=warp", "--data.channels=bgr", "--data.mean_file=mean.npy", "--data.scale=0.5"
    data = resolved(*network, *caffes)
    phase = data.phase(training=True)
    assert (phase.resize, phase.channels, phase.mean_file, phase.mean_value) == ("warp", "bgr", "mean.npy", ())
    assert (phase.scale, phase.std_value) == (0.5, ())
    data = resolved(*network, "--data.mean_value=1,2,3", "--data.interpolation=bicubic", "--data.std_value=9")
    assert (data.mean_value, data.interpolation, data.std_value) == ((1, 2, 3), "bicubic", (9,))


def test_training_pictures_are_cut_at_random_except_in_caffes_recipe_and_with_caffes_input():
    network = ("--model.arch=resnet50", "--weights=DEFAULT")
    cut = "--data.augment.random_resized_crop"
    assert resolved(*network).augment.random_resized_crop
    assert not resolved(*network, f"{cut}=false").augment.random_resized_crop
    assert not resolved(*network, "--data.resize=warp").augment.random_resized_crop
    assert not resolved().augment.random_resized_crop
    assert resolved(f"{cut}=true", "--data.mean_value=9").augment.random_resized_crop


def test_a_run_with_a_solver_has_caffes_input():
    config = dataclasses.replace(Config(model=ModelConfig(arch="resnet50")), solver="solver.prototxt")
    assert resolve_preprocessing(config, None).data.channels == "bgr"


def test_a_checkpoint_of_an_earlier_version_keeps_caffes_input():
    saved = DataConfig(image_size=256, crop_size=224, mean_value=(104, 117, 123))  # all that it has
    before = Config(model=ModelConfig(arch="resnet50"), data=saved)
    now = resolve_preprocessing(Config(model=before.model), SimpleNamespace(config=before))
    assert now.data == saved
    assert changed_settings(before, now) == []
    assert not now.data.augment.is_used
    phase = now.data.phase(training=False)
    assert (phase.resize, phase.channels, phase.image_size, phase.std_value) == ("warp", "bgr", (256, 256), ())


def test_the_checkpoints_of_the_first_version_have_caffes_input():
    config = load_config(ROOT / "tests" / "old_formats" / "run" / "checkpoints" / "iter_6" / "config.yaml")
    phase = config.data.phase(training=True)
    assert (phase.resize, phase.channels, phase.std_value) == ("warp", "bgr", ())


def test_a_resumed_run_keeps_its_input_and_its_flags_need_not_be_given_again():
    network = ("--model.arch=resnet50", "--weights=DEFAULT")
    before = resolve_preprocessing(parse_config([*network, "--data.crop_size=112"]), None)
    now = resolve_preprocessing(parse_config(list(network)), SimpleNamespace(config=before))
    assert now == before


def test_a_run_that_starts_from_a_checkpoint_has_its_input(tmp_path):
    config = Config(data=DataConfig(image_size=48, crop_size=43, mean_value=(9,)))
    _, path = save(tmp_path, config=config)
    data = resolved("--model.arch=resnet18", f"--weights={path}")
    assert sizes(data) == [(48, 43)] * 2
    assert (data.phase(training=True).channels, data.mean_value) == ("bgr", (9,))


def test_settings_that_contradict_each_other_are_one_line():
    network = ("--model.arch=resnet18",)
    for flag, line in (
        ("--data.image_size=60,40", r"data\.image_size is \[60, 40\]; data\.resize=shorter_side needs one length"),
        ("--data.image_size=0", r"data\.image_size is 0; data\.resize=shorter_side needs one length"),
        ("--data.crop_size=0", r"data\.crop_size is 0; data\.resize=shorter_side needs a crop"),
    ):
        with pytest.raises(UserError, match=line):
            resolved(*network, flag)


def test_the_input_is_described():
    def words(*flags):
        config = resolve_preprocessing(parse_config(["--data.shards=d", *flags]), None)
        return describe_input(config, config.data.phase(training=True))

    assert words() == "resized to 256x256, cropped to 227x227, mirrored at random; minus d/mean.npy"
    network = ("--model.arch=resnet18", "--data.mirror=false")
    values = "minus the values 123.675, 116.28, 103.53, divided by 58.395, 57.12, 57.375 (R,G,B)"
    assert words(*network, "--data.augment.policy=randaugment") == (
        f"a random part of 0.08 to 1 of the area resized (bilinear) to 224x224, randaugment; {values}"
    )
    assert words(*network, "--data.augment.random_resized_crop=false") == (
        f"shorter side resized to 256 (bilinear), cropped to 224x224; {values}"
    )


def test_pictures_that_lost_their_shape_are_a_warning(pixel_shards, original_shards):
    kept = DataConfig(resize="shorter_side", image_size=40, crop_size=32)
    pixels, originals = (open_index(DataConfig(shards=str(path))) for path in (pixel_shards, original_shards))
    warning = lost_aspect_ratio(pixels, kept.phase(training=True))
    assert warning.startswith(f"the pictures of {pixel_shards} are stored as 48x48 pixels, whatever their shape was")
    assert lost_aspect_ratio(originals, kept.phase(training=True)) is None
    assert lost_aspect_ratio(pixels, DataConfig().phase(training=True)) is None
