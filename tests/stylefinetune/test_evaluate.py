import json
import math

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from stylefinetune.checkpoint.atomic_folder import write_folder
from stylefinetune.errors import UserError
from stylefinetune.evaluate import evaluate
from tests.deploy import deploy_text
from tests.programs import metrics, python
from tests.stylefinetune.data.staging.stores import upload


def test_a_checkpoint_alone_gives_the_test_result_of_the_run(trained, capsys):
    evaluate([str(trained), "--workers=0"])
    last = metrics(trained, "test")[-1]
    out = capsys.readouterr().out
    assert f"{trained / 'checkpoints' / 'iter_12'}, 11 pictures" in out
    assert f"accuracy = {last['accuracy']:.6g} ({last['correct']} of 11)" in out
    assert f"loss = {last['loss']:.6g}" in out


def test_pictures_in_an_object_store_give_the_same_result(trained, memory, pixel_shards, tmp_path, capsys):
    url = upload(pixel_shards, f"{memory}/DIR")
    evaluate([str(trained), "--workers=0", f"--data={url}"])
    last = metrics(trained, "test")[-1]
    assert f"accuracy = {last['accuracy']:.6g} ({last['correct']} of 11)" in capsys.readouterr().out
    copies = [path.parent.name for path in (tmp_path / "cache").rglob("*.tar")]
    assert copies == ["test"]


def test_two_ranks_give_the_same_result(trained):
    done = python("-m", "stylefinetune.evaluate", trained, "--workers=0", ranks=2)
    assert done.returncode == 0, done.stderr
    last = metrics(trained, "test")[-1]
    assert done.stdout.count("\naccuracy = ") == 1
    assert f"accuracy = {last['accuracy']:.6g} ({last['correct']} of 11)\nloss = {last['loss']:.6g}" in done.stdout


def test_the_evaluation_is_written_as_json_and_as_a_table(trained, tmp_path, capsys):
    evaluate([str(trained), "--workers=0", f"--out={tmp_path / 'new' / 'out'}"])
    metrics_file, table_file = (
        tmp_path / "new" / "out" / "metrics.json",
        tmp_path / "new" / "out" / "predictions.parquet",
    )
    assert capsys.readouterr().out.splitlines()[-2:] == [str(metrics_file), str(table_file)]
    found = json.loads(metrics_file.read_text())
    assert found["accuracy"] == metrics(trained, "test")[-1]["accuracy"]
    assert found["checkpoint"] == str(trained / "checkpoints" / "iter_12")
    table = pq.read_table(table_file)
    assert table.column_names == ["row", "key", "label", "predicted", "probability", "rank", "logits"]
    assert table["row"].to_pylist() == list(range(11))
    assert sum(rank == 1 for rank in table["rank"].to_pylist()) == found["correct"]
    assert json.loads(table.schema.metadata[b"classes"]) == [one["name"] for one in found["by_class"]]


def test_ranks_write_the_same_predictions_as_one(trained, tmp_path):
    evaluate([str(trained), "--workers=0", f"--out={tmp_path / 'alone'}"])
    done = python("-m", "stylefinetune.evaluate", trained, "--workers=1", f"--out={tmp_path / 'three'}", ranks=3)
    assert done.returncode == 0, done.stderr
    alone, three = (pq.read_table(tmp_path / name / "predictions.parquet") for name in ("alone", "three"))
    assert three.drop_columns(["logits", "probability"]).equals(alone.drop_columns(["logits", "probability"]))
    for ours, theirs in zip(alone["logits"].to_pylist(), three["logits"].to_pylist(), strict=True):
        assert ours == pytest.approx(theirs, abs=1e-5)


def test_an_error_of_rank_0_is_one_line_of_all_ranks(trained, tmp_path):
    (tmp_path / "file").touch()
    done = python("-m", "stylefinetune.evaluate", trained, "--workers=0", f"--out={tmp_path / 'file'}", ranks=2)
    assert done.returncode != 0
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("error:")]
    assert f"{tmp_path / 'file'} can't be written (File exists)" in line
    assert "stylefinetune/evaluate.py" not in done.stderr  # no traceback


def test_ten_crops_are_averaged(trained, tmp_path):
    logits = []
    for flags in (["--crops=10"], ["--flip"], []):
        evaluate([str(trained), "--workers=0", f"--out={tmp_path}", *flags])
        logits.append(pq.read_table(tmp_path / "predictions.parquet")["logits"].to_pylist())
    assert logits[0] != logits[1] != logits[2] != logits[0]
    assert sum(map(math.exp, logits[0][0])) == pytest.approx(1, rel=1e-5)  # the logarithms of probabilities
    with pytest.raises(UserError, match="--crops is 5; it must be 1 or 10"):
        evaluate([str(trained), "--crops=5"])


def test_other_shards_and_another_split_can_be_given(trained, original_shards, capsys):
    evaluate([str(trained), f"--shards={original_shards}", "--split=train", "--workers=0"])
    assert f"41 pictures of {original_shards}, split train" in capsys.readouterr().out


def test_a_mistake_is_one_line(trained, original_shards, tmp_path):
    with pytest.raises(UserError, match="neither a checkpoint nor a run's folder"):
        evaluate([str(tmp_path)])
    with pytest.raises(UserError, match=r"no pictures of split 'val'; it has test, train: choose one with --split$"):
        evaluate([str(trained), "--split=val"])
    with pytest.raises(UserError, match="--workers is -1; it must not be negative"):
        evaluate([str(trained), "--workers=-1"])
    other = tmp_path / "other"

    def rename_classes(folder):
        for file in (trained / "checkpoints" / "iter_5").iterdir():
            (folder / file.name).write_bytes(file.read_bytes())
        (folder / "manifest.json").unlink()
        progress = json.loads((folder / "progress.json").read_text())
        (folder / "progress.json").write_text(json.dumps({**progress, "classes": ["Cat", "Dog", "Cow", "Hen"]}))

    write_folder(other, rename_classes)
    with pytest.raises(UserError, match=r"the classes of .* differ from those of"):
        evaluate([str(other), f"--shards={original_shards}"])


def test_a_caffemodel_has_the_accuracy_and_the_loss_that_caffe_computed(golden, micro, tmp_path):
    """Caffe tested these weights on the first 100 pictures of the split."""
    (deploy := tmp_path / "deploy.prototxt").write_text(deploy_text(golden))
    weights = str(golden / "micro" / "finetune" / "micro_ft_iter_0.caffemodel")
    data, files = (
        micro[0].replace("data.shards", "data"),
        [f"--deploy={deploy}", f"--mean={golden / 'micro' / 'mean.binaryproto'}"],
    )
    evaluate([weights, *files, data, "--workers=0", f"--out={tmp_path}"])
    table = pq.read_table(tmp_path / "predictions.parquet").slice(0, 100)
    expected = np.load(golden / "micro" / "finetune" / "golden_finetune.npz")
    logits, labels = torch.tensor(table["logits"].to_pylist()), torch.tensor(table["label"].to_pylist())
    assert float(torch.nn.functional.cross_entropy(logits, labels)) == pytest.approx(expected["test_loss"][0], abs=1e-5)
    assert np.mean(np.array(table["rank"]) == 1) == pytest.approx(expected["test_acc"][0])
    with pytest.raises(UserError, match="doesn't say on which pictures to test it; name a shard directory with --data"):
        evaluate([weights, *files])


def test_the_class_names_of_a_caffemodel_must_be_those_of_the_shards(golden, micro, tmp_path):
    (deploy := tmp_path / "deploy.prototxt").write_text(deploy_text(golden))
    weights = str(golden / "micro" / "finetune" / "micro_ft_iter_0.caffemodel")
    (names := tmp_path / "names.txt").write_text("".join(f"style {number}\n" for number in range(20)))
    flags = [f"--deploy={deploy}", "--mean_value=100", "--image_size=80", micro[0].replace("data.shards", "data")]
    with pytest.raises(UserError, match=r"the classes of .* differ from those of .*caffemodel; name other --data"):
        evaluate([weights, *flags, f"--class_names={names}"])
