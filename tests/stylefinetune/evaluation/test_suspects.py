import json

import numpy as np
import pyarrow.parquet as pq
import pytest

from shards.format.index import ShardIndex
from stylefinetune.evaluation.predictions import Predictions
from stylefinetune.evaluation.suspects import find_suspects, write_suspects


def predictions(probabilities, labels, names="abc"):
    logits = np.log(np.array(probabilities)).astype(np.float32)
    return Predictions(np.arange(len(labels)) + 10, np.array(labels), logits, list(names)[: logits.shape[1]])


def noisy(count, classes, seed, wrong=0.1, signal=2.5):
    """Return labels of which some are wrong, and probabilities of a good classifier of the true classes."""
    random = np.random.default_rng(seed)
    truth = random.integers(classes, size=count)
    labels = np.where(random.random(count) < wrong, random.integers(classes, size=count), truth)
    logits = random.normal(size=(count, classes)) + signal * np.eye(classes)[truth]
    return truth, Predictions(np.arange(count), labels, logits.astype(np.float32), [str(n) for n in range(classes)])


def test_a_picture_that_confidently_belongs_to_another_class_is_suspect():
    found = find_suspects(
        predictions(
            [[0.9, 0.1], [0.7, 0.3], [0.2, 0.8], [0.1, 0.9], [0.95, 0.05], [0.6, 0.4]], [0, 0, 1, 1, 1, 1], "ab"
        )
    )
    # The mean probability of a is 0.8 in its pictures, so the last picture is not confidently one of a.
    assert found.rows.tolist() == [14]
    assert (found.labels.tolist(), found.suggested.tolist()) == ([1], [0])
    assert found.label_probability == pytest.approx([0.05])
    assert found.suggested_probability == pytest.approx([0.95])
    assert found.margin == pytest.approx([-0.9])


def test_no_label_is_suspect_that_is_predicted_or_whose_picture_belongs_to_no_class():
    assert len(find_suspects(predictions([[0.6, 0.4], [0.6, 0.4], [0.6, 0.4]], [0, 0, 0], "ab"))) == 0
    # A class without pictures has no threshold.
    assert len(find_suspects(predictions([[0.6, 0.1, 0.3], [0.1, 0.2, 0.7]], [0, 1]))) == 0


def test_known_wrong_labels_are_found():
    truth, found = noisy(2000, 5, 1, signal=5)
    suspects = find_suspects(found)
    wrong = np.flatnonzero(found.labels != truth)
    hits = np.isin(suspects.rows, wrong)
    assert np.isin(wrong, suspects.rows).mean() > 0.8
    assert hits.mean() > 0.5
    assert hits[: len(wrong) // 2].mean() > 0.8
    assert (np.diff(suspects.margin) >= 0).all()
    assert (suspects.suggested[hits] == truth[suspects.rows[hits]]).mean() > 0.9


@pytest.mark.parametrize(("classes", "seed"), [(2, 0), (5, 1), (20, 2)])
def test_cleanlab_finds_the_same(classes, seed):
    """Cleanlab is no dependency, see docs/dependencies.md; the test runs where it is installed."""
    cleanlab = pytest.importorskip("cleanlab.filter")
    _, found = noisy(1500, classes, seed)
    probabilities = found.probabilities
    theirs = cleanlab.find_label_issues(
        found.labels, probabilities, return_indices_ranked_by="normalized_margin", filter_by="confident_learning"
    )
    # If the most probable class of all is below its threshold, and several others are not, cleanlab takes the former.
    own = probabilities[np.arange(1500), found.labels]
    thresholds = np.array([own[found.labels == label].mean() for label in range(classes)])
    is_confident = probabilities >= thresholds
    differs = (is_confident.sum(axis=1) > 1) & ~is_confident[np.arange(1500), probabilities.argmax(axis=1)]
    ours = find_suspects(found).rows
    assert ours[~differs[ours]].tolist() == theirs[~differs[theirs]].tolist()
    assert 0 < len(ours) < 1500
    assert differs.mean() < 0.1


def test_the_table_has_keys_and_names(pixel_shards, tmp_path):
    entries = ShardIndex.load(pixel_shards).entries("test")
    probabilities = np.full((11, 4), 0.1)
    probabilities[np.arange(11), np.arange(11) % 4] = 0.7
    labels = np.arange(11) % 4
    labels[5] = 2
    found = Predictions(np.arange(11), labels, np.log(probabilities).astype(np.float32), list("abcd"))
    write_suspects(find_suspects(found), entries, tmp_path / "suspects.parquet", {"split": "test"})
    table = pq.read_table(tmp_path / "suspects.parquet")
    (row,) = table.to_pylist()
    assert (row["row"], row["key"], row["label"], row["suggested"]) == (5, entries.key[5], 2, 1)
    assert row["margin"] == pytest.approx(-0.6)
    assert row["suggested_probability"] == pytest.approx(0.7)
    assert json.loads(table.schema.metadata[b"classes"]) == list("abcd")
    assert [path.name for path in tmp_path.iterdir()] == ["suspects.parquet"]
