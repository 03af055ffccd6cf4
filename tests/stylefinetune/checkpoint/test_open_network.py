import pytest
from jsonargparse import ArgumentParser

from stylefinetune.checkpoint.open_network import add_network_options, open_network
from stylefinetune.errors import UserError
from tests.deploy import deploy_text
from tests.drawn_checkpoints import save


@pytest.fixture
def open_():
    parser = ArgumentParser(exit_on_error=False)
    add_network_options(parser, "network")

    def open_arguments(*arguments):
        options = parser.parse_args([str(argument) for argument in arguments])
        return open_network(options, options.network)

    return open_arguments


def test_a_run_and_its_checkpoint_are_opened(open_, tmp_path):
    _, path = save(tmp_path / "run")
    assert open_(tmp_path / "run").path == open_(f"{tmp_path / 'run'}:5").path == open_(path).path == path


def test_a_caffemodel_is_opened_with_its_deploy_prototxt(open_, golden, tmp_path):
    (deploy := tmp_path / "deploy.prototxt").write_text(deploy_text(golden))
    weights = golden / "micro" / "finetune" / "micro_ft_iter_0.caffemodel"
    opened = open_(weights, f"--deploy={deploy}", "--mean_value=1,2,3", "--image_size=80", "--scale=2")
    assert opened.config.data.mean_value == (1.0, 2.0, 3.0)
    assert opened.config.data.scale == 2
    assert open_(weights, f"--deploy={deploy}", "--mean_value=0").config.data.mean_value == (0.0,)
    with pytest.raises(UserError, match="needs its deploy prototxt: --deploy FILE"):
        open_(weights)
    with pytest.raises(UserError, match="--mean_value is a,b; give one for each channel, such as 104,117,123"):
        open_(weights, f"--deploy={deploy}", "--mean_value=a,b")


def test_published_weights_have_a_name(open_, golden, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (deploy := tmp_path / "deploy.prototxt").write_text(deploy_text(golden))
    with pytest.raises(UserError, match="isn't downloaded yet; run: stylefinetune weights bvlc_reference_caffenet"):
        open_("bvlc_reference_caffenet", f"--deploy={deploy}", "--mean_value=0")


def test_a_checkpoint_has_its_own_settings(open_, tmp_path):
    _, path = save(tmp_path)
    with pytest.raises(UserError, match=r"--scale belongs to a \.caffemodel; .* is a checkpoint"):
        open_(path, "--scale=1")
