import json
import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from stylefinetune.errors import UserError
from stylefinetune.evaluate import evaluate
from stylefinetune.serve.gallery import Gallery

pytestmark = pytest.mark.xdist_group("serve")  # with the other tests of a trained run


@pytest.fixture(scope="module")
def evaluation(trained, tmp_path_factory):
    out = tmp_path_factory.mktemp("evaluation")
    evaluate([str(trained), "--workers=0", f"--out={out}"])
    return out


@pytest.fixture(scope="module")
def gallery(evaluation):
    return Gallery.open(evaluation, "softmax")


def find(gallery, shown="all", true=None, predicted=None, first=0, count=100, least_sure=False):
    return gallery.find(shown, true, predicted, first, count, least_sure=least_sure)


def test_the_predictions_are_those_of_evaluate(gallery, evaluation):
    metrics = json.loads((evaluation / "metrics.json").read_text())
    summary = gallery.summarize()
    assert summary["correct"] == round(metrics["accuracy"] * metrics["count"])
    assert (summary["pictures"], summary["split"]) == (metrics["count"], "test")
    assert summary["checkpoint"] == metrics["checkpoint"]
    assert summary["has_pictures"]
    table = pq.read_table(evaluation / "predictions.parquet")
    shown = sorted(find(gallery)["pictures"], key=lambda picture: picture["number"])
    assert [picture["key"] for picture in shown] == table["key"].to_pylist()
    best = [picture["classes"][0] for picture in shown]
    assert [each["label"] for each in best] == table["predicted"].to_pylist()
    np.testing.assert_allclose([each["probability"] for each in best], table["probability"].to_numpy(), atol=1e-6)
    names = [metrics["by_class"][label]["name"] for label in table["label"].to_pylist()]
    assert [picture["true"] for picture in shown] == [[name] for name in names]


def test_pictures_are_found_by_class_and_by_mistake(gallery):
    everything = find(gallery)["pictures"]
    mistakes, correct = find(gallery, "mistakes")["pictures"], find(gallery, "correct")["pictures"]
    assert len(mistakes) + len(correct) == len(everything) == len(gallery)
    assert not any(picture["correct"] for picture in mistakes)
    assert all(picture["correct"] for picture in correct)
    for label, name in enumerate(gallery.classes):
        expected = [picture for picture in everything if picture["true"] == [name]]
        assert find(gallery, true=label)["pictures"] == expected
        expected = [picture for picture in everything if picture["classes"][0]["class"] == name]
        assert find(gallery, predicted=label)["pictures"] == expected
    assert find(gallery, "mistakes", true=0, predicted=0)["found"] == 0


def test_the_order_and_the_pages(gallery):
    def sure(found):
        return [picture["classes"][0]["probability"] for picture in found["pictures"]]

    assert sure(find(gallery)) == sorted(sure(find(gallery)), reverse=True)
    assert sure(find(gallery, least_sure=True)) == sorted(sure(find(gallery)))
    pages = [find(gallery, first=first, count=4) for first in (0, 4, 8)]
    assert [picture for page in pages for picture in page["pictures"]] == find(gallery, count=12)["pictures"]
    assert {page["found"] for page in pages} == {len(gallery)}


def test_pictures_are_read_from_the_shards(gallery):
    small, large = gallery.picture(3, 20), gallery.picture(3, 512)
    assert small[:3] == large[:3] == b"\xff\xd8\xff"
    assert len(small) < len(large)
    assert gallery.picture(len(gallery), 20) == gallery.picture(-1, 20) == b""


def test_other_or_missing_shards_have_no_pictures(evaluation, tmp_path, original_shards):
    table = pq.read_table(evaluation / "predictions.parquet")
    metadata = table.schema.metadata

    def open_with(shards, keys=None):
        changed = table.set_column(1, "key", pa.array(keys)) if keys else table
        pq.write_table(
            changed.replace_schema_metadata(metadata | {b"shards": str(shards).encode()}),
            tmp_path / "predictions.parquet",
        )
        return Gallery.open(tmp_path, "softmax")

    assert open_with(original_shards).picture(0, 20)
    assert open_with(original_shards, ["other"] * len(table)).picture(0, 20) == b""
    gone = open_with(tmp_path / "gone")
    assert gone.picture(0, 20) == b""
    assert not gone.summarize()["has_pictures"]


def test_several_labels(tmp_path):
    logits = torch.tensor([[2.0, 1.0, -1.0], [0.0, 1.0, 3.0], [1.0, 0.0, -2.0]])
    table = pa.table(
        {
            "row": [0, 1, 2],
            "key": ["a", "b", "c"],
            "labels": pa.array([[0, 1], [1], [2]], pa.list_(pa.int32())),
            "logits": pa.FixedSizeListArray.from_arrays(pa.array(logits.flatten().numpy()), 3),
        }
    )
    metadata = {"classes": json.dumps(["x", "y", "z"]), "checkpoint": "c", "shards": "none", "split": "test"}
    pq.write_table(table.replace_schema_metadata(metadata), tmp_path / "predictions.parquet")
    gallery = Gallery.open(tmp_path, "bce")
    assert gallery.summarize()["correct"] == 1
    assert [picture["key"] for picture in find(gallery, true=1)["pictures"]] == ["b", "a"]
    picture = find(gallery, "correct")["pictures"][0]
    assert (picture["key"], picture["true"]) == ("a", ["x", "y"])
    assert picture["classes"][0]["probability"] == pytest.approx(logits.sigmoid()[0, 0].item(), abs=1e-6)


def test_none_and_damaged_ones(evaluation, tmp_path):
    assert Gallery.open(tmp_path, "softmax") is None
    path = tmp_path / "predictions.parquet"
    shutil.copy(evaluation / "predictions.parquet", path)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(
        UserError, match=r"predictions.parquet can't be read \(.*; remove it, and evaluate the run again"
    ):
        Gallery.open(tmp_path, "softmax")
    pq.write_table(pa.table({"a": [1]}), path)
    with pytest.raises(UserError, match="can't be read"):
        Gallery.open(tmp_path, "softmax")
