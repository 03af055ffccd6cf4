"""Training, testing, evaluation, prediction and the report of a run on pictures with several labels."""

import importlib.util
import json
import shutil

import numpy as np
import pyarrow.parquet as pq
import pytest

from shards.format.index import ShardIndex
from tests.programs import NARROW, metrics, python, train_on

RECIPE = [
    *NARROW,
    "--train.loss=bce",
    "--train.display=1",
    "--train.test_interval=6",
    "--train.iter_size=2",
    "--optim.base_lr=0.02",
]
SPREAD = "--model.weight_filler_std=[0.1,0.1,0.1,0.1,0.1,0.2,0.2,0.2]"  # pictures get different scores at once
LEARNING = ["--optim.optimizer=adamw", "--optim.base_lr=0.005", "--optim.lr_policy=cosine", "--train.iter_size=1"]
MIXED = ["--data.mixup=0.4", "--data.cutmix=1", "--train.label_smoothing=0.1"]


def flags(shards, run_dir, *further, iterations=12):
    return [*RECIPE, f"--data.shards={shards}", f"--run_dir={run_dir}", f"--train.max_iter={iterations}", *further]


def average_precision(scores, is_label):
    """The mean over the pictures of a class of the precision among those that score at least as high."""
    precisions = [is_label[scores >= score].mean() for score in scores[is_label]]
    return sum(precisions) / len(precisions)


@pytest.fixture(scope="module")
def trained(label_shards, tmp_path_factory):
    """A run that has learned something, and its evaluation; the best checkpoint is that of the highest map."""
    run_dir = tmp_path_factory.mktemp("labels") / "run"
    settings = ["--checkpoint.best_metric=map", "--checkpoint.snapshot=20", "--train.test_interval=20", *LEARNING]
    settings += ["--data.mirror=false", "--model.dropout=0", SPREAD]
    done = train_on(1, *flags(label_shards, run_dir, *settings, iterations=80))
    assert done.returncode == 0, done.stderr
    evaluated = python("-m", "stylefinetune.evaluate", run_dir, f"--out={run_dir / 'evaluation'}")
    assert evaluated.returncode == 0, evaluated.stderr
    return run_dir, done.stderr, evaluated.stdout


@pytest.mark.parametrize("further", [[], MIXED], ids=["plain", "mixed"])
def test_two_ranks_match_one(label_shards, tmp_path, further):
    """Without dropout, which is seeded per rank, and with scores that differ more than the last digits do."""
    settings = ["--model.dropout=0", SPREAD, *further]
    for ranks in (1, 2):
        done = train_on(ranks, *flags(label_shards, tmp_path / str(ranks), *settings))
        assert done.returncode == 0, done.stderr
        assert "Warning" not in done.stderr
    for phase, values in (("train", ["loss"]), ("test", ["loss", "map", "accuracy"])):
        one, two = ([[entry[name] for name in values] for entry in metrics(tmp_path / run, phase)] for run in "12")
        assert np.array(two) == pytest.approx(np.array(one), abs=1e-5)


def test_a_resumed_run_is_bitwise_equal_to_an_uninterrupted_one(label_shards, tmp_path):
    """On two ranks, with dropout, and once with the pictures in memory."""
    uninterrupted, resumed = tmp_path / "uninterrupted", tmp_path / "resumed"
    snapshots = "--checkpoint.snapshot=5"
    first = train_on(2, *flags(label_shards, uninterrupted, snapshots, *MIXED))
    assert first.returncode == 0, first.stderr
    shutil.copytree(uninterrupted, resumed, symlinks=True)
    for later in ("iter_10", "iter_12"):
        shutil.rmtree(resumed / "checkpoints" / later)
    second = train_on(2, *flags(label_shards, resumed, snapshots, *MIXED, "--data.resident=true"))
    assert second.returncode == 0, second.stderr
    assert "iter_5" in second.stderr
    for file in ("model.safetensors", "optimizer.safetensors", "progress.json"):
        mine, theirs = ((run / "checkpoints" / "iter_12" / file).read_bytes() for run in (resumed, uninterrupted))
        assert mine == theirs, file


@pytest.mark.skipif(importlib.util.find_spec("deepspeed") is None, reason="deepspeed is not installed")
def test_both_engines_compute_the_same(label_shards, tmp_path):
    for engine in ("torch", "deepspeed"):
        further = [*MIXED, "--model.dropout=0", f"--engine={engine}"]
        done = train_on(1, *flags(label_shards, tmp_path / engine, *further, iterations=4))
        assert done.returncode == 0, done.stderr
    ours, theirs = ([entry["loss"] for entry in metrics(tmp_path / run, "train")] for run in ("torch", "deepspeed"))
    assert len(ours) == 4
    assert theirs == pytest.approx(ours, abs=1e-5)


def test_the_network_learns_all_labels(trained):
    run_dir, log, _ = trained
    first, *_, last = tests = metrics(run_dir, "test")
    assert last["map"] > 0.8 > first["map"]
    assert f"Test net output #2: map = {last['map']:.6g}" in log
    best = max(tests, key=lambda entry: (entry["map"], -entry["iteration"]))
    assert (run_dir / "best").resolve().name == f"iter_{best['iteration']}"


def test_the_evaluation_agrees_with_independent_formulas(trained, label_shards):
    run_dir, _, printed = trained
    found = json.loads((run_dir / "evaluation" / "metrics.json").read_text())
    table = pq.read_table(run_dir / "evaluation" / "predictions.parquet")
    logits = np.array(table["logits"].to_pylist())
    is_label = np.zeros(logits.shape, bool)
    for row, labels in enumerate(table["labels"].to_pylist()):
        is_label[row, labels] = True
    entries = ShardIndex.load(label_shards).entries("test")
    assert table["labels"].to_pylist() == [entries.labels[row].tolist() for row in table["row"].to_pylist()]
    areas = [average_precision(logits[:, label], is_label[:, label]) for label in range(6)]
    assert found["mean_average_precision"] == pytest.approx(np.mean(areas), abs=1e-6)
    predicted = 1 / (1 + np.exp(-logits)) >= 0.5
    for label, each in enumerate(found["by_class"]):
        hits, count, guesses = (int(mask[:, label].sum()) for mask in (is_label & predicted, is_label, predicted))
        assert (each["count"], each["correct"]) == (count, hits)
        assert each["recall"] == pytest.approx(hits / count)
        assert each["precision"] == (pytest.approx(hits / guesses) if guesses else None)
        assert each["average_precision"] == pytest.approx(areas[label], abs=1e-6)
    assert found["accuracy"] == is_label[np.arange(len(logits)), logits.argmax(1)].mean()
    losses = np.logaddexp(0, logits) - logits * is_label
    assert found["loss"] == pytest.approx(losses.mean(axis=1).mean(), rel=1e-5)
    last = metrics(run_dir, "test")[-1]
    assert last["map"] == pytest.approx(found["mean_average_precision"], abs=1e-6)
    assert (last["accuracy"], last["loss"]) == (found["accuracy"], pytest.approx(found["loss"], rel=1e-5))
    assert not {"confusion", "calibration", "top5"} & found.keys()
    assert f"mean average precision = {found['mean_average_precision']:.4f}" in printed
    assert "most frequent mistakes" not in printed.lower()


def test_the_report_of_such_runs_opens(trained, tmp_path):
    """Two runs, so that they would be compared on the same pictures."""
    run_dir, *_ = trained
    shutil.copytree(run_dir, tmp_path / "other", symlinks=True)
    done = python("-m", "stylefinetune.report", run_dir, tmp_path / "other", "--out", tmp_path / "page.html")
    assert done.returncode == 0, done.stderr
    page = (tmp_path / "page.html").read_text()
    assert "Test mean average precision" in page
    assert "have their most probable class among their labels" in page
    assert "McNemar" not in page


def test_predict_gives_each_class_its_own_probability(trained, drawn):
    run_dir, *_ = trained
    done = python("-m", "stylefinetune.predict", drawn.folder / "train_002.jpg", "--checkpoint", run_dir, "--top", "6")
    assert done.returncode == 0, done.stderr
    lines = [line.split(" - ") for line in done.stdout.splitlines() if " - " in line]
    likely = {name.strip('"') for probability, name in lines if float(probability) > 0.5}
    assert len(lines) == 6
    assert likely == {"bokeh", "dark", "soft"}


@pytest.mark.parametrize(
    ("further", "message"),
    [
        (["--train.loss=softmax"], "DIR have several labels, but train.loss softmax is for one; train with train.loss"),
        (["--data.balanced=true"], "data.balanced is for pictures with one label, but those of "),
        (["--train.class_weights=balanced"], "train.class_weights is for train.loss softmax"),
    ],
)
def test_what_is_for_one_label_is_refused_in_one_line(label_shards, tmp_path, further, message):
    done = python("-m", "stylefinetune.check", *flags(label_shards, tmp_path / "run", *further))
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert message in done.stderr
