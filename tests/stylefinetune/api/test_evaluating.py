import dataclasses
import json

import numpy as np
import pytest

from shards.format.columns import Lists
from stylefinetune import evaluate
from stylefinetune.errors import UserError
from tests.programs import python


def test_the_result_is_that_of_the_command(trained, tmp_path):
    result = evaluate(trained, baselines="train", baseline_pictures=30)
    flags = ["--baselines=train", "--baseline_pictures=30", "--suspects"]
    done = python("-m", "stylefinetune.evaluate", trained, "--workers=0", "--out", tmp_path, *flags)
    assert done.returncode == 0, done.stderr
    written = json.loads((tmp_path / "metrics.json").read_text())
    assert {name: written[name] for name in result.metrics.to_json()} == pytest.approx(result.metrics.to_json())
    assert json.loads(json.dumps(result.baselines.to_json())) == written["baselines"]
    assert len(result.suspects()) == written["suspects"]
    assert result.classes == ["Noir", "Hazy", "Bokeh", "Bright"]
    assert len(result.predictions) == result.metrics.count == 11


def test_other_data_split_and_views(trained, pixel_shards):
    assert evaluate(trained).baselines is None
    assert evaluate(trained, pixel_shards, "train").metrics.count == 41
    assert evaluate(trained, crops=10, flip=True).metrics.count == 11
    with pytest.raises(UserError, match="no pictures of split 'val'"):
        evaluate(trained, split="val")
    with pytest.raises(UserError, match="it must be 1 or 10"):
        evaluate(trained, crops=4)


def test_suspects_need_pictures_with_one_label(trained):
    result = evaluate(trained)
    lists = Lists(np.arange(12), np.zeros(11, np.int64))
    several = dataclasses.replace(result, predictions=dataclasses.replace(result.predictions, several=lists))
    with pytest.raises(UserError, match="suspects are found among pictures with one label, and these have several"):
        several.suspects()
