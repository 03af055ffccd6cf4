import json

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from stylefinetune.errors import UserError
from stylefinetune.features import features
from tests.deploy import INPUT, deploy_text, one_dropout
from tests.programs import python
from tests.stylefinetune.prediction.conftest import album, saved  # noqa: F401 -- fixtures

pytestmark = pytest.mark.xdist_group("prediction")  # with the other tests that read shards


@pytest.mark.parametrize("change", [str, one_dropout])
@pytest.mark.parametrize("layer", ["pool1", "norm2", "conv3", "pool5", "fc6", "fc7", "fc8_flickr", None])
def test_caffes_blobs_are_reproduced(golden, tmp_path, layer, change):
    """Caffe's blobs of the first two training pictures; without a layer, the input of the classifier is fc7's.

    The second net is not CaffeNet, but computes the same.
    """
    whole = INPUT.replace("dim: 75", "dim: 80")
    (deploy := tmp_path / "deploy.prototxt").write_text(deploy_text(golden, input_=whole, change=change))
    micro = golden / "micro"
    pictures = [micro / line.split()[0] for line in (micro / "train.txt").read_text().splitlines()[:2]]
    weights = micro / "finetune" / "micro_ft_iter_0.caffemodel"
    flags = [f"--deploy={deploy}", f"--mean={micro / 'mean.binaryproto'}", f"--out={tmp_path / 'x.npy'}"]
    features([str(weights), *map(str, pictures), *flags, *([f"--layer={layer}"] if layer else [])])
    expected = np.load(micro / "finetune" / "golden_finetune.npz")[f"act0/{layer or 'fc7'}"]
    np.testing.assert_allclose(np.load(tmp_path / "x.npy"), expected, rtol=1e-4, atol=1e-5 * np.abs(expected).max())
    assert (tmp_path / "x.names.txt").read_text().splitlines() == list(map(str, pictures))


def test_parquet_says_where_the_features_are_from(saved, album, tmp_path):  # noqa: F811
    features([str(saved.path), str(album.folder), f"--out={tmp_path / 'x.parquet'}", "--batch_size=2"])
    table = pq.read_table(tmp_path / "x.parquet")
    assert table["picture"].to_pylist() == album.paths()
    assert json.loads(table.schema.metadata[b"shape"]) == [32]
    assert table.schema.metadata[b"layer"] == b"input of fc8_flickr"
    assert table.schema.metadata[b"checkpoint"] == str(saved.path).encode()
    # The classifier computes the scores from them.
    fc8 = torch.nn.functional.linear(
        torch.tensor(table["features"].to_pylist()),
        saved.tensors["fc8_flickr.weight"],
        saved.tensors["fc8_flickr.bias"],
    )
    features([str(saved.path), str(album.folder), "--layer=fc8_flickr", f"--out={tmp_path / 'x.npy'}"])
    scores = torch.from_numpy(np.load(tmp_path / "x.npy"))
    torch.testing.assert_close(scores, fc8, rtol=0, atol=1e-5 * fc8.abs().max().item())


def test_the_layers_are_listed(saved, capsys):  # noqa: F811
    features([str(saved.path), "--list_layers"])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["conv1", "Conv2d", "8x9x9"]
    assert lines[-1].split() == ["fc8_flickr", "Linear", "3"]


def test_bad_pictures_are_passed_over(saved, album, tmp_path):  # noqa: F811
    (tmp_path / "bad.jpg").write_text("hello")
    out = tmp_path / "x.npy"
    done = python("-m", "stylefinetune.features", saved.path, tmp_path / "bad.jpg", album.paths()[0], f"--out={out}")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.splitlines()[-1] == "error: 1 of 2 pictures can't be read"
    assert np.load(out).shape == (1, 32)
    assert (tmp_path / "x.names.txt").read_text() == f"{album.paths()[0]}\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--out=x.npy"], "no pictures are given"),
        (["a.jpg"], r"--out is missing; it must be a file that ends with \.parquet or \.npy"),
        (["a.jpg", "--out=x.csv"], r"--out is x\.csv; it must"),
        (["a.jpg", "--out=x.npy", "--layer=fc9"], "--layer fc9: the network has no such layer; did you mean fc"),
    ],
)
def test_a_wrong_flag_is_one_line(saved, arguments, message, tmp_path, monkeypatch):  # noqa: F811
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=message):
        features([str(saved.path), *arguments])
    assert list(tmp_path.iterdir()) == []
