import contextlib
import json
import math

import cv2
import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from stylefinetune.checkpoint.atomic_folder import write_folder
from stylefinetune.errors import UserError
from stylefinetune.evaluate import evaluate
from stylefinetune.testing.test_set import TestSet
from tests.deploy import deploy_text
from tests.programs import ROOT, assemble, metrics, python
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
    assert not {"baselines", "suspects"} & set(found)
    assert found["accuracy"] == metrics(trained, "test")[-1]["accuracy"]
    assert found["checkpoint"] == str(trained / "checkpoints" / "iter_12")
    table = pq.read_table(table_file)
    assert table.column_names == ["row", "key", "label", "predicted", "probability", "rank", "logits"]
    assert table["row"].to_pylist() == list(range(11))
    assert sum(rank == 1 for rank in table["rank"].to_pylist()) == found["correct"]
    assert json.loads(table.schema.metadata[b"classes"]) == [one["name"] for one in found["by_class"]]


def test_ranks_write_the_same_predictions_as_one(trained, tmp_path):
    flags = ["--baselines=train", "--baseline_pictures=40", "--suspects"]
    evaluate([str(trained), "--workers=0", f"--out={tmp_path / 'alone'}", *flags])
    out = tmp_path / "three"
    done = python("-m", "stylefinetune.evaluate", trained, "--workers=1", f"--out={out}", *flags, ranks=3)
    assert done.returncode == 0, done.stderr
    alone, three = (pq.read_table(tmp_path / name / "predictions.parquet") for name in ("alone", "three"))
    assert three.drop_columns(["logits", "probability"]).equals(alone.drop_columns(["logits", "probability"]))
    for ours, theirs in zip(alone["logits"].to_pylist(), three["logits"].to_pylist(), strict=True):
        assert ours == pytest.approx(theirs, abs=1e-5)
    one, other = (json.loads((tmp_path / name / "metrics.json").read_text()) for name in ("alone", "three"))
    assert one["baselines"] == other["baselines"]
    assert (one["baselines"]["pictures"], one["baselines"]["available"]) == (40, 41)
    suspects = [pq.read_table(tmp_path / name / "suspects.parquet")["key"] for name in ("alone", "three")]
    assert set(suspects[0].to_pylist()) == set(suspects[1].to_pylist())  # margins may differ by a rounding


WRONG = (5, 18, 31, 32, 45, 58, 71, 72)  # test pictures, two of each colour


@pytest.fixture(scope="module")
def colours(tmp_path_factory):
    """A run that has learned to tell four colours apart; eight of 80 test pictures have wrong labels."""
    from stylefinetune.train import main

    folder = tmp_path_factory.mktemp("colours")
    means = np.array([[200, 40, 40], [40, 180, 40], [40, 60, 200], [128, 128, 128]])
    (folder / "classes.txt").write_text("red\ngreen\nblue\ngrey\n")
    for split, count in (("train", 80), ("test", 80)):
        lines = []
        for number in range(count):
            random, label = np.random.default_rng([number, split == "test"]), number % 4
            noise = random.normal(0, 25, (48, 48, 3)) + random.normal(0, 10, 3)
            pixels = np.clip(means[label] + noise, 0, 255).astype(np.uint8)
            path = folder / f"{split}_{number:03d}.png"
            cv2.imwrite(str(path), pixels[:, :, ::-1])
            is_wrong = split == "test" and number in WRONG
            lines.append(f"{path} {(label + is_wrong) % 4}\n")
        (folder / f"{split}.txt").write_text("".join(lines))
    lists = [f"--list={split}={folder / split}.txt" for split in ("train", "test")]
    encoding = ["--encode_format=pixels", "--image_size=48", "--workers=1"]
    assemble(*lists, f"--classes={folder / 'classes.txt'}", "--out", folder / "DIR", *encoding)
    flags = ["--data.image_size=48", "--data.crop_size=48", "--data.batch_size=20", "--data.workers=0"]
    flags += ["--model.arch=timm/test_resnet", "--optim.base_lr=0.02", "--tracking.wandb=disabled"]
    with contextlib.chdir(ROOT):
        main([*flags, "--train.max_iter=40", f"--data.shards={folder / 'DIR'}", f"--run_dir={folder / 'run'}"])
    return folder / "run"


def test_wrong_labels_are_suspect(colours, tmp_path, capsys):
    evaluate([str(colours), "--workers=0", "--suspects", f"--out={tmp_path}"])
    lines = capsys.readouterr().out.splitlines()
    table = pq.read_table(tmp_path / "suspects.parquet")
    found = [row for row in table.to_pylist()[:8] if row["row"] in WRONG]
    assert len(found) >= 7
    assert sum(row["suggested"] == row["row"] % 4 for row in found) >= 6
    assert json.loads((tmp_path / "metrics.json").read_text())["suspects"] == len(table) < 12
    first = lines.index(f"{len(table)} of 80 labels are suspect; the first are:") + 1
    assert [line.split()[-1] for line in lines[first : first + 7]] == table["key"].to_pylist()[:7]
    assert lines[-1] == str(tmp_path / "suspects.parquet")
    assert not any("was trained on" in line for line in lines)


def test_suspects_among_the_training_pictures_come_with_a_warning(colours, capsys):
    evaluate([str(colours), "--workers=0", "--suspects", "--split=train"])
    assert "The network was trained on these pictures, and has learned many of the wrong" in capsys.readouterr().out


def test_the_nearest_neighbours_recognize_all_but_the_wrong_labels(colours, tmp_path, capsys):
    evaluate([str(colours), "--workers=0", "--baselines=train", f"--out={tmp_path}"])
    found = json.loads((tmp_path / "metrics.json").read_text())["baselines"]
    assert 70 <= found["knn"]["correct"] <= 72
    assert 70 <= found["linear_probe"]["correct"] <= 72
    lines = capsys.readouterr().out.splitlines()
    first = lines.index("Classifiers of the input of fc (96 features), fitted to 80 of 80 pictures of split train:")
    assert lines[first + 3].split()[:4] == ["20", "nearest", "neighbours", f"{found['knn']['accuracy']:.4f}"]
    assert not (tmp_path / "suspects.parquet").exists()


def test_a_number_of_pictures_needs_baselines(trained):
    with pytest.raises(
        UserError, match=r"^--baseline_pictures is 5, but --baselines is missing; add --baselines SPLIT$"
    ):
        evaluate([str(trained), "--baseline_pictures=5"])


def test_an_error_of_rank_0_is_one_line_of_all_ranks(trained, tmp_path):
    (tmp_path / "file").touch()
    done = python("-m", "stylefinetune.evaluate", trained, "--workers=0", f"--out={tmp_path / 'file'}", ranks=2)
    assert done.returncode != 0
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("error:")]
    assert f"{tmp_path / 'file'} can't be written (File exists)" in line
    assert "stylefinetune/evaluate.py" not in done.stderr  # no traceback


def test_a_folder_that_cannot_be_made_ends_the_command_before_the_test(trained, tmp_path, monkeypatch):
    monkeypatch.setattr(TestSet, "predict", lambda *_, **__: pytest.fail("tested"))
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"can't be written \(File exists\); choose a place"):
        evaluate([str(trained), "--workers=0", f"--out={tmp_path / 'file'}"])


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
    with pytest.raises(
        UserError, match=r"of .* \(without Cat, Dog, Cow, Hen and with Noir, Hazy, Bokeh, Bright\); name"
    ):
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
    with pytest.raises(
        UserError,
        match=r"the classes of .* differ from those of .*caffemodel \(without style 0, style 1, .* and 15 more",
    ):
        evaluate([weights, *flags, f"--class_names={names}"])
