import csv
import dataclasses
import json
import re
import signal
import subprocess
import sys
import time

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from stylefinetune.checkpoint.checkpoint import read_checkpoint
from stylefinetune.errors import UserError
from stylefinetune.evaluate import evaluate
from stylefinetune.export.caffe_files import write_caffe
from stylefinetune.features import features
from stylefinetune.predict import predict
from stylefinetune.prediction.loader import PictureLoader
from stylefinetune.prediction.network import PictureNetwork
from stylefinetune.prediction.pictures import FetchLimits, PictureFile
from tests import drawn_checkpoints
from tests.loopback import Answer
from tests.programs import ROOT, python
from tests.stylefinetune.prediction.conftest import album, saved  # noqa: F401 -- fixtures

pytestmark = pytest.mark.xdist_group("prediction")  # with the other tests that read shards


@pytest.fixture
def call(saved, capsys):  # noqa: F811
    """Run the command with the drawn checkpoint; return what it prints."""

    def call_with(*arguments, checkpoint=saved.path):
        predict([*map(str, arguments), f"--checkpoint={checkpoint}"])
        return capsys.readouterr().out

    return call_with


def pictures_of(lines):
    return [json.loads(line)["picture"] for line in lines.splitlines()]


def test_a_checkpoint_alone_classifies_pictures(trained, drawn):
    picture = drawn.folder / "test_001.jpg"
    done = python("-m", "stylefinetune.predict", picture, "--checkpoint", trained, "--top=3")
    assert done.returncode == 0, done.stderr
    first, *rest = done.stdout.splitlines()
    assert first == f"---------- Prediction for {picture} ----------"
    matches = [re.fullmatch(r'(0\.\d{4}|1\.0000) - "(.+)"', line) for line in rest]
    assert len(matches) == 3
    assert all(matches)
    probabilities = [float(match[1]) for match in matches]
    assert probabilities == sorted(probabilities, reverse=True)
    assert {match[2] for match in matches} < {"Noir", "Hazy", "Bokeh", "Bright"}


def test_inputs_of_all_kinds_keep_their_order_in_all_formats(call, album, pixel_shards, server, tmp_path):  # noqa: F811
    url = server.add("/x.png", Answer((album.folder / "b.png").read_bytes()))
    pq.write_table(pa.table({"where": [url, str(album.folder / "a.jpg")]}), tmp_path / "list.parquet")
    inputs = [url, album.folder, tmp_path / "list.parquet", album.folder / "*.png", pixel_shards]
    flags = ["--split=test", "--column=where", "--allow_private", "--batch_size=4"]
    pictures = pictures_of(call(*inputs, *flags, "--format=jsonl"))
    assert pictures[:9] == [url, *album.paths(), url, album.paths()[0], album.paths()[1]]
    assert len(pictures) == 9 + 11
    for name in ("x.csv", "x.jsonl", "x.parquet", "x.txt"):
        assert call(*inputs, *flags, "--out", tmp_path / name, "--top=1") == ""
    table = pq.read_table(tmp_path / "x.parquet")
    with (tmp_path / "x.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    lines = [json.loads(line) for line in (tmp_path / "x.jsonl").read_text().splitlines()]
    assert [row["picture"] for row in rows] == table["picture"].to_pylist() == pictures
    assert [line["picture"] for line in lines] == pictures
    best = [row["class_1"] for row in rows]
    assert best == [row[0] for row in table["classes"].to_pylist()]
    assert best == [line["classes"][0]["class"] for line in lines]
    assert re.findall(r'- "(\w+)"', (tmp_path / "x.txt").read_text()) == best


def test_bad_pictures_are_passed_over_and_end_with_code_1(saved, album, tmp_path):  # noqa: F811
    (tmp_path / "text.jpg").write_text("hello")
    bad = [tmp_path / "text.jpg", tmp_path / "gone.jpg"]
    good = album.paths()[0]
    done = python("-m", "stylefinetune.predict", *bad, good, "--checkpoint", saved.path, "--format=jsonl")
    assert done.returncode == 1
    assert pictures_of(done.stdout) == [good]
    assert done.stderr == (
        f"error: {bad[0]} is not a picture that OpenCV reads: begins with b'hello'\n"
        f"error: {bad[1]} can't be read: No such file or directory\n"
        "error: 2 of 3 pictures can't be read\n"
    )


def test_a_jpg_without_its_end_marker_is_classified_like_the_complete_one(call, album, tmp_path):  # noqa: F811
    complete = (album.folder / "a.jpg").read_bytes()
    assert complete.endswith(b"\xff\xd9")
    (tmp_path / "x.jpg").write_bytes(complete)
    first = call(tmp_path / "x.jpg")
    (tmp_path / "x.jpg").write_bytes(complete[:-2])
    assert call(tmp_path / "x.jpg") == first


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["x.jpg", "--top=0"], "--top is 0; it must be at least 1"),
        (["x.jpg", "--crops=5"], "--crops is 5; it must be 1 or 10"),
        (["x.jpg", "--format=parquet"], "--format parquet needs --out FILE"),
        (["x.jpg", "--out=b.JPG"], r"--out is b\.JPG, the name of a picture; give a file such as classes\.csv"),
        (["x.jpg", "--workers=0"], "--workers is 0; it must be above 0"),
        ([], "INPUTS is required"),
    ],
)
def test_a_wrong_flag_is_one_line(call, flags, message):
    with pytest.raises(UserError, match=message) as raised:
        call(*flags)
    assert raised.value.code == 2


@pytest.mark.parametrize("command", [predict, features])
def test_results_do_not_replace_an_input(saved, tmp_path, command):  # noqa: F811
    (path := tmp_path / "list.parquet").write_bytes(b"PAR1")
    (tmp_path / "folder").symlink_to(tmp_path)
    flags = [str(saved.path)] if command is features else ["--checkpoint", str(saved.path)]
    with pytest.raises(UserError, match=r"--out is .*list\.parquet, which is also an input"):
        command([*flags, str(tmp_path / "folder" / "list.parquet"), f"--out={path}"])
    assert path.read_bytes() == b"PAR1"


def test_crops_and_flip_average_as_evaluate_does(trained, pixel_shards, call, tmp_path):
    for flags in (["--crops=10"], ["--flip"], []):
        evaluate([str(trained), "--workers=0", f"--out={tmp_path}", *flags])
        expected = np.array(pq.read_table(tmp_path / "predictions.parquet")["probability"])
        call(pixel_shards, "--split=test", f"--out={tmp_path / 'x.parquet'}", *flags, checkpoint=trained)
        found = np.array([row[0] for row in pq.read_table(tmp_path / "x.parquet")["probabilities"].to_pylist()])
        np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_several_labels_a_picture_have_the_sigmoid_of_their_scores(album, tmp_path, call):  # noqa: F811
    config = dataclasses.replace(
        drawn_checkpoints.CONFIG, train=dataclasses.replace(drawn_checkpoints.CONFIG.train, loss="bce")
    )
    _, path = drawn_checkpoints.save(tmp_path / "run", config=config)
    found = json.loads(call(album.paths()[0], "--format=jsonl", checkpoint=path))["classes"]
    network = PictureNetwork(read_checkpoint(path), torch.device("cpu"))
    with PictureLoader(network.size, network.fit, 1, 1, FetchLimits()) as loader:
        (batch,) = loader.load([PictureFile(album.paths()[0])])
    expected = network(batch.pictures).sigmoid()[0]
    assert [each["probability"] for each in found] == pytest.approx(expected.sort(descending=True)[0].tolist())


def test_a_caffemodel_is_classified_as_its_checkpoint(call, saved, album, tmp_path):  # noqa: F811
    deploy, weights, mean, labels = write_caffe(saved, tmp_path)
    flags = [f"--deploy={deploy}", f"--mean={mean}", f"--class_names={labels}", "--format=jsonl"]
    assert call(album.folder, *flags, checkpoint=weights) == call(album.folder, "--format=jsonl")


@pytest.mark.parametrize("kill", [signal.SIGINT, signal.SIGKILL])
def test_a_kill_leaves_no_file_and_ctrl_c_ends_soon_and_cleanly(saved, server, tmp_path, kill):  # noqa: F811
    """A stalled server makes the program wait; the processes are its own, since signals end them."""
    url = server.add("/a.jpg", Answer(b"12345678", transfer="stall"))
    out = tmp_path / "out" / "x.jsonl"
    program = [sys.executable, "-m", "stylefinetune.predict", url, "--allow_private", f"--checkpoint={saved.path}"]
    with subprocess.Popen(
        [*program, f"--out={out}", "--timeout=600"], cwd=ROOT, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            deadline = time.monotonic() + 120
            while not server.request_times("/a.jpg") and time.monotonic() < deadline and process.poll() is None:
                time.sleep(0.05)
            process.send_signal(kill)
            _, errors = process.communicate(timeout=60)
        finally:
            process.kill()
    assert not out.exists()
    if kill == signal.SIGINT:
        assert (process.returncode, errors) == (130, "interrupted\n")
        assert list(out.parent.iterdir()) == []
