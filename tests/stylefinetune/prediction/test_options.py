import pytest
from jsonargparse import ArgumentParser

from stylefinetune.errors import UserError
from stylefinetune.prediction.options import add_picture_options, check_out, check_picture_options, open_loader


@pytest.fixture
def parse():
    parser = ArgumentParser()
    add_picture_options(parser)
    return lambda *flags: parser.parse_args(list(flags))


@pytest.mark.parametrize("flag", ["--batch_size=0", "--workers=-1", "--timeout=0", "--max_bytes=0"])
def test_a_value_out_of_range_is_named(parse, flag):
    name, _, value = flag.partition("=")
    with pytest.raises(UserError, match=f"{name} is {value}; it must be above 0"):
        check_picture_options(parse(flag))
    check_picture_options(parse())


def test_the_loader_reads_as_the_network_needs(parse, network):
    with open_loader(parse("--batch_size=7", "--workers=3", "--allow_private"), network) as loader:
        assert (loader._batch_size, loader._pool._max_workers, loader._size) == (7, 3, (48, 48))
        assert loader._limits.allow_private
    with open_loader(parse(), network) as loader:
        assert loader._batch_size == 50
        assert not loader._limits.allow_private


def test_the_output_is_no_input(tmp_path):
    (path := tmp_path / "a.csv").touch()
    inputs = ["https://example.org/a.csv", "a" * 300, str(tmp_path / ".." / tmp_path.name / "a.csv")]
    for out in (None, tmp_path / "b.csv", tmp_path / "gone" / "a.csv"):
        check_out(out, inputs)
    with pytest.raises(UserError, match=r"a\.csv, which is also an input"):
        check_out(path, inputs)
