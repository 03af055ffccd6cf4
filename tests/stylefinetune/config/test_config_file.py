import pytest

from stylefinetune.config.cli import dump_config, load_config, parse_config
from stylefinetune.config.config_file import read_config_file
from stylefinetune.config.schema import Config
from stylefinetune.errors import UserError
from tests.programs import ROOT

OLD = ROOT / "tests" / "old_formats" / "run" / "checkpoints" / "iter_6" / "config.yaml"


def test_the_name_in_an_old_config_was_the_name_in_the_log():
    for config in (load_config(OLD), parse_config(["--config", str(OLD)])):
        assert (config.model.name, config.model.display_name) == ("caffenet", "FlickrStyleCaffeNet")
        assert config.data.shuffle is False


def test_any_name_in_an_old_config_is_read(tmp_path):
    file = tmp_path / "config.yaml"
    file.write_text(OLD.read_text().replace("FlickrStyleCaffeNet", "resnet50"))
    assert load_config(file).model.title == "resnet50"


def test_a_network_in_a_new_config_is_checked(tmp_path):
    file = tmp_path / "config.yaml"
    file.write_text(dump_config(Config()).replace("name: caffenet", "name: resnet50"))
    with pytest.raises(UserError, match=r"model\.name is 'resnet50', an unknown network; the networks are: caffenet"):
        load_config(file)


def test_a_byte_order_mark_is_skipped(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_bytes(b"\xef\xbb\xbftrain: {max_iter: 5}\n")
    assert read_config_file(file) == {"train": {"max_iter": 5}}
