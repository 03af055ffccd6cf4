import pytest

from tests.programs import assemble


@pytest.fixture(scope="session")
def many_shards(drawn, pixel_shards, tmp_path_factory):
    """Shards of the drawn pictures as 48x48 pixels, 11 tars for training and 3 for tests."""
    out = tmp_path_factory.mktemp("many") / "DIR"
    assemble(*drawn.lists, "--out", out, "--encode_format=pixels", "--image_size=48", "--rows_per_shard=4")
    (out / "mean.npy").write_bytes((pixel_shards / "mean.npy").read_bytes())
    return out
