import json

import pytest

from stylefinetune import evaluate
from stylefinetune.errors import UserError
from tests.programs import python


def test_the_result_is_that_of_the_command(trained, tmp_path):
    result = evaluate(trained)
    done = python("-m", "stylefinetune.evaluate", trained, "--workers=0", "--out", tmp_path)
    assert done.returncode == 0, done.stderr
    written = json.loads((tmp_path / "metrics.json").read_text())
    assert {name: written[name] for name in result.metrics.to_json()} == pytest.approx(result.metrics.to_json())
    assert result.classes == ["Noir", "Hazy", "Bokeh", "Bright"]
    assert len(result.predictions) == result.metrics.count == 11


def test_other_data_split_and_views(trained, pixel_shards):
    assert evaluate(trained, pixel_shards, "train").metrics.count == 41
    assert evaluate(trained, crops=10, flip=True).metrics.count == 11
    with pytest.raises(UserError, match="no pictures of split 'val'"):
        evaluate(trained, split="val")
    with pytest.raises(UserError, match="it must be 1 or 10"):
        evaluate(trained, crops=4)
