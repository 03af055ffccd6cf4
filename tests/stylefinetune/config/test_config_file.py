import pytest

from stylefinetune.config.cli import dump_config, load_config, parse_config
from stylefinetune.config.config_file import read_config_file
from stylefinetune.config.schema import Config, ModelConfig
from stylefinetune.errors import UserError
from tests.programs import ROOT

OLD = ROOT / "tests" / "old_formats" / "run" / "checkpoints" / "iter_6" / "config.yaml"


def test_the_name_in_an_old_config_was_the_name_in_the_log():
    for config in (load_config(OLD), parse_config(["--config", str(OLD)])):
        assert (config.model.arch, config.model.display_name) == ("caffenet", "FlickrStyleCaffeNet")
        assert config.data.shuffle is False


def test_any_name_in_an_old_config_is_read(tmp_path):
    file = tmp_path / "config.yaml"
    file.write_text(OLD.read_text().replace("FlickrStyleCaffeNet", "resnet50"))
    assert load_config(file).model.title == "resnet50"


def test_the_network_was_called_model_name_before_there_were_several(tmp_path):
    file = tmp_path / "config.yaml"
    former = dump_config(Config(model=ModelConfig(display_name="MyNet"))).replace("arch: caffenet", "name: caffenet")
    assert "arch" not in former
    file.write_text(former)
    assert load_config(file).model == ModelConfig(display_name="MyNet")
    file.write_text("model: {name: resnet18}")
    assert load_config(file).model.arch == "resnet18"


def test_both_names_in_one_file_are_refused(tmp_path):
    file = tmp_path / "config.yaml"
    file.write_text("model: {name: resnet18, arch: resnet18}")
    with pytest.raises(UserError, match=r"unknown key model\.name; it is model\.arch now"):
        load_config(file)


def test_a_byte_order_mark_is_skipped(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_bytes(b"\xef\xbb\xbftrain: {max_iter: 5}\n")
    assert read_config_file(file) == {"train": {"max_iter": 5}}
