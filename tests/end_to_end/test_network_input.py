"""The input of networks other than CaffeNet, from training to prediction."""

import tarfile

import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file

from tests.programs import metrics, python, train_on

FLAGS = [
    "--model.arch=resnet18",
    "--model.batch_norm=eval",
    "--data.crop_size=32",
    "--data.augment.policy=randaugment",
    "--data.augment.random_erasing=0.5",
    "--data.batch_size=8",
    "--optim.lr_policy=fixed",
    "--train.display=1",
    "--train.test_interval=2",
    "--checkpoint.snapshot=0",
    "--tracking.wandb=disabled",
]


@pytest.fixture(scope="module")
def flags(original_shards):
    return [*FLAGS, f"--data.shards={original_shards}"]


def train(*flags, run_dir, ranks=1, iterations=4):
    done = train_on(ranks, *flags, f"--run_dir={run_dir}", f"--train.max_iter={iterations}")
    assert done.returncode == 0, done.stderr
    return done.stderr


def tensors(run_dir):
    return load_file(run_dir / "checkpoints" / "iter_4" / "model.safetensors")


@pytest.fixture(scope="module")
def trained_resnet(flags, tmp_path_factory):
    run_dir = tmp_path_factory.mktemp("resnet") / "run"
    log = train(*flags, "--data.workers=0", run_dir=run_dir)
    assert "Input: a random part of 0.08 to 1 of the area resized (bilinear) to 32x32, randaugment, erased in" in log
    return run_dir


def test_workers_and_a_resume_give_bitwise_the_same_network(flags, trained_resnet, tmp_path):
    for iterations in (2, 4):
        train(*flags, "--data.workers=2", run_dir=tmp_path, iterations=iterations)
    whole, parts = tensors(trained_resnet), tensors(tmp_path)
    assert all(torch.equal(whole[name], parts[name]) for name in whole)


def test_two_ranks_read_the_same_pictures_as_one(flags, trained_resnet, tmp_path):
    train(*flags, "--data.workers=1", run_dir=tmp_path, ranks=2)
    one, two = tensors(trained_resnet), tensors(tmp_path)
    assert max((one[name].double() - two[name].double()).abs().max().item() for name in one) < 1e-5


def test_evaluate_and_predict_give_the_network_what_the_tests_of_the_run_give_it(
    trained_resnet, original_shards, tmp_path
):
    evaluated = python("-m", "stylefinetune.evaluate", trained_resnet, f"--out={tmp_path}", "--workers=0")
    assert evaluated.returncode == 0, evaluated.stderr
    assert f"accuracy = {metrics(trained_resnet, 'test')[-1]['accuracy']:.6g} (" in evaluated.stdout
    row = pq.read_table(tmp_path / "predictions.parquet").to_pylist()[3]
    with tarfile.open(original_shards / "test" / "00000.tar") as tar:
        picture = tmp_path / f"{row['key']}.jpg"
        picture.write_bytes(tar.extractfile(picture.name).read())
    predicted = python("-m", "stylefinetune.predict", picture, "--checkpoint", trained_resnet, "--top=1")
    name = ["Noir", "Hazy", "Bokeh", "Bright"][row["predicted"]]
    assert f'{row["probability"]:.4f} - "{name}"' in predicted.stdout
    crops = python("-m", "stylefinetune.evaluate", trained_resnet, "--crops=10", "--workers=0")
    assert crops.returncode == 0, crops.stderr
