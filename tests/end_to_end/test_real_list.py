"""The Flickr Style list with its real URLs, through a local proxy that answers in place of the web."""

import csv
import gzip
from collections import Counter

import numpy as np
import pyarrow.parquet as pq
import pytest

from tests.forward_proxy import ForwardProxy, UrlState, url_state
from tests.programs import ROOT, assemble, metrics, python, train_on

LIST = ROOT.parent / "shared" / "data" / "flickr_style.csv.gz"
IMAGES = 2000
DEAD = {UrlState.MISSING: "not_found", UrlState.UNAVAILABLE: "placeholder"}

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def picked():
    """The rows that Caffe's script picks, in its order."""
    if not LIST.is_file():
        pytest.skip("the real list (../shared/data/flickr_style.csv.gz) isn't here")
    with gzip.open(LIST, "rt", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    return [rows[row] for row in np.random.RandomState(831486).permutation(len(rows))[:IMAGES]]


@pytest.fixture(scope="module")
def crawled(picked, tmp_path_factory):
    out = tmp_path_factory.mktemp("real") / "shards"
    labels = {row["image_url"]: int(row["label"]) for row in picked}
    settings = [
        "--encode_format=pixels",
        f"--images={IMAGES}",
        "--seed=831486",
        "--classes=flickr_style",
        "--workers=2",
    ]
    with ForwardProxy(labels) as proxy:
        done = assemble(f"--list={LIST}", f"--out={out}", f"--proxy={proxy.url}", *settings)
    mean = python("-m", "shards", "mean", out)
    assert mean.returncode == 0, mean.stderr
    return out, done.stdout + done.stderr


def test_the_crawl_takes_caffes_rows_and_records_the_outcome_of_each(picked, crawled):
    out, printed = crawled
    fates = Counter(DEAD.get(url_state(row["image_url"]), "kept") for row in picked)
    assert set(fates) == {"kept", "not_found", "placeholder"}
    lines = printed.splitlines()
    assert lines[0] == f"Downloading {IMAGES:,} images with 2 workers..."
    assert f"Writing train/val for {fates['kept']} successfully downloaded images." in lines
    outcomes = pq.read_table(out / "outcomes.parquet").to_pylist()
    assert Counter(outcome["status"] for outcome in outcomes) == fates
    by_url = {outcome["image_url"]: outcome for outcome in outcomes}
    for row in picked:
        expected = DEAD.get(url_state(row["image_url"]), "kept")
        assert by_url[row["image_url"]]["status"] == expected
        assert by_url[row["image_url"]]["split"] == row["_split"]


def test_each_split_is_in_the_order_of_the_permutation(picked, crawled):
    index = pq.read_table(crawled[0] / "index.parquet").to_pylist()
    for split in ("train", "test"):
        expected = [
            (row[""], int(row["label"]))
            for row in picked
            if row["_split"] == split and url_state(row["image_url"]) not in DEAD
        ]
        assert [(entry["key"], entry["label"]) for entry in index if entry["split"] == split] == expected


def test_the_full_size_caffenet_trains_on_it_on_two_ranks(crawled, tmp_path):
    short = ["--train.max_iter=3", "--train.display=1", "--train.test_iter=1", "--data.workers=1"]
    quiet = ["--tracking.wandb=disabled", f"--data.shards={crawled[0]}", f"--run_dir={tmp_path}"]
    done = train_on(2, *short, *quiet, timeout=300)
    assert done.returncode == 0, done.stderr
    losses = [entry["loss"] for entry in metrics(tmp_path, "train")]
    assert len(losses) == 3
    assert losses[0] == pytest.approx(np.log(20), abs=0.5)
    saved = tmp_path / "checkpoints" / "iter_3" / "model.safetensors"
    assert saved.stat().st_size == pytest.approx(56_950_164 * 4, rel=0.001)


def test_a_narrow_one_learns_from_it(crawled, tmp_path):
    recipe = ROOT / "configs" / "finetune" / "quickstart.yaml"
    sizes = ["--data.image_size=256", "--data.crop_size=83", "--train.max_iter=150", "--train.test_interval=150"]
    quiet = ["--tracking.wandb=disabled", f"--data.shards={crawled[0]}", f"--run_dir={tmp_path}"]
    done = train_on(2, f"--config={recipe}", *sizes, *quiet, timeout=300)
    assert done.returncode == 0, done.stderr
    before, after = metrics(tmp_path, "test")
    assert before["accuracy"] < 0.1
    assert after["accuracy"] > before["accuracy"] + 0.15
