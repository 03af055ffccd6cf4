"""Pictures in a folder, and in existing tars, are trained on from the first command to the last."""

import cv2
import numpy as np
import pytest

from shards.format.index import ShardIndex
from shards.format.tar import SampleWriter
from tests.programs import NARROW, metrics, python, train_on

CLASSES = ("blue", "green", "red")


def draw(label: int, number: int) -> bytes:
    noise = np.random.default_rng(100 * label + number).integers(0, 60, (60, 80, 3), np.uint8)
    noise[:, :, label] += 180
    return cv2.imencode(".jpg", noise)[1].tobytes()


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """20 pictures of each of three colours, in a folder for each colour."""
    root = tmp_path_factory.mktemp("own") / "my photos"
    for label, name in enumerate(CLASSES):
        for number in range(20):
            path = root / name / f"{number}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(draw(label, number))
    return root


def shards(*arguments, cwd):
    done = python("-m", "shards", *arguments, cwd=cwd)
    assert done.returncode == 0, done.stderr


def train(folder, name):
    """Train a few iterations on the DIR `name`, and return the number of its test pictures."""
    shards("mean", name, "--image_size", "48", cwd=folder)
    flags = [f"--data.shards={name}", "--run_dir=run", "--train.max_iter=2", "--train.test_interval=2"]
    done = train_on(1, *flags, f"--data.mean_file={name}/mean.npy", *NARROW, cwd=folder)
    assert done.returncode == 0, done.stderr
    return metrics(folder / "run", "test")[-1]["count"]


def test_a_folder_of_classes(photos, tmp_path):
    shards("assemble", "--list", photos, "--out", "mine", cwd=tmp_path)
    index = ShardIndex.load(tmp_path / "mine")
    assert index.metadata.classes == CLASSES
    assert np.bincount(index.entries("test").label).tolist() == [4, 4, 4]
    assert train(tmp_path, "mine") == 12
    done = python("-m", "stylefinetune", "predict", photos / "red" / "0.jpg", "--checkpoint", "run", cwd=tmp_path)
    assert {line.partition('"')[2].strip('"') for line in done.stdout.splitlines()[1:]} == set(CLASSES)


def test_existing_tars(photos, tmp_path):
    for split, numbers in {"train": range(16), "val": range(16, 20)}.items():
        with (tmp_path / f"colours-{split}-000.tar").open("wb") as file, SampleWriter(file) as tar:
            for name in CLASSES:
                for number in numbers:
                    body = (photos / name / f"{number}.jpg").read_bytes()
                    tar.write(f"{name}_{number}", {"jpg": body, "cls": name.encode()})
    shards("index", "colours-{train,val}-000.tar", "--out", "indexed", cwd=tmp_path)
    assert ShardIndex.load(tmp_path / "indexed").metadata.classes == CLASSES
    assert train(tmp_path, "indexed") == 12
    done = python("-m", "stylefinetune", "evaluate", "run", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
