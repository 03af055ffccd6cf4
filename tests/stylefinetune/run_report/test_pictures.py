import base64
import dataclasses
import shutil

import cv2
import numpy as np
import pytest

from stylefinetune.evaluate import evaluate
from stylefinetune.run_report.history import read_history
from stylefinetune.run_report.pictures import find_mistakes, find_suspect_pictures


@pytest.fixture(scope="module")
def evaluated(trained, tmp_path_factory):
    """Return the short run with its evaluation."""
    folder = tmp_path_factory.mktemp("evaluated") / "run"
    shutil.copytree(trained, folder, symlinks=True)
    evaluate([str(folder), "--workers=0", f"--out={folder / 'evaluation'}", "--suspects"])
    return folder


def test_mistakes_have_a_thumbnail_and_the_most_confident_are_first(evaluated):
    run = read_history(evaluated)
    mistakes = find_mistakes(run)
    assert len(mistakes) == run.evaluation["count"] - run.evaluation["correct"] > 0
    probabilities = [mistake.probability for mistake in mistakes]
    assert probabilities == sorted(probabilities, reverse=True)
    for mistake in mistakes:
        assert mistake.true != mistake.predicted
        _, _, encoded = mistake.image.partition("data:image/jpeg;base64,")
        picture = cv2.imdecode(np.frombuffer(base64.b64decode(encoded), np.uint8), cv2.IMREAD_COLOR)
        assert picture.shape == (48, 48, 3)


def test_without_its_shards_a_run_has_mistakes_without_pictures(evaluated, tmp_path):
    run = read_history(evaluated)
    moved = dataclasses.replace(run, evaluation=run.evaluation | {"shards": str(tmp_path)})
    assert {mistake.image for mistake in find_mistakes(moved)} == {""}
    assert find_mistakes(dataclasses.replace(run, evaluation=None)) == []


def test_suspect_labels_have_a_thumbnail(evaluated, tmp_path):
    run = read_history(evaluated)
    found = find_suspect_pictures(run)
    assert found.count == run.evaluation["suspects"] == len(found.shown) > 0
    for suspect in found.shown:
        assert suspect.label != suspect.suggested
        assert suspect.image.startswith("data:image/jpeg;base64,")
    moved = dataclasses.replace(run, evaluation=run.evaluation | {"shards": str(tmp_path)})
    assert {suspect.image for suspect in find_suspect_pictures(moved).shown} == {""}


def test_suspects_of_an_earlier_evaluation_are_not_shown(evaluated):
    run = read_history(evaluated)
    without = {key: value for key, value in run.evaluation.items() if key != "suspects"}
    assert find_suspect_pictures(dataclasses.replace(run, evaluation=without)) is None
    assert find_suspect_pictures(dataclasses.replace(run, evaluation=None)) is None
