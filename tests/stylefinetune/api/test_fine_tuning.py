import pytest

from stylefinetune import fine_tune
from stylefinetune.errors import UserError
from tests.programs import python

SETTINGS = {
    "data": {"image_size": 48, "crop_size": 43, "batch_size": 10, "workers": 0},
    "model": {"widths": [8, 16, 16, 16, 16, 32, 32]},
    "optim": {"base_lr": 0.01, "layers": [{"match": "fc8_flickr", "lr_mult": 5, "decay_mult": 1}]},
    "train": {"max_iter": 4, "test_interval": 2, "display": 1},
    "checkpoint": {"snapshot": 2},
    "tracking": {"wandb": "disabled"},
}


def test_a_run_trains_continues_and_tells_its_metrics(pixel_shards, tmp_path):
    config = tmp_path / "mine.yaml"
    config.write_text("train: {max_iter: 99, seed: 5}\n")
    run = fine_tune(tmp_path / "run", pixel_shards, config=config, **SETTINGS)
    assert [entry["iteration"] for entry in run.metrics("train")] == [0, 1, 2, 3]
    assert [entry["iteration"] for entry in run.metrics("test")] == [0, 2, 4]
    saved = (tmp_path / "run" / "checkpoints" / "iter_4" / "config.yaml").read_text()
    assert "seed: 5" in saved
    assert "lr_mult: 5" in saved
    assert (run.best, run.last) == (f"{tmp_path}/run:best", f"{tmp_path}/run:last")
    longer = fine_tune(tmp_path / "run", pixel_shards, **SETTINGS | {"train": {"max_iter": 6, "display": 1}})
    assert [entry["iteration"] for entry in longer.metrics("train")] == [0, 1, 2, 3, 4, 5]


def test_mistakes_are_errors_in_one_line(tmp_path):
    with pytest.raises(UserError, match=r"index\.parquet: no such file"):
        fine_tune(tmp_path / "run", tmp_path / "none", **SETTINGS)
    with pytest.raises(UserError, match=r"did you mean optim\.base_lr"):
        fine_tune(tmp_path / "run", tmp_path / "none", optim={"baselr": 5})


# Trains, tests and classifies in one program, as a notebook or a script under torchrun does.
PROGRAM = """
import sys
from stylefinetune import evaluate, fine_tune
shards, run_dir, settings = sys.argv[1], sys.argv[2], eval(sys.argv[3])
run = fine_tune(run_dir, shards, **settings)
for _ in range(2):
    result = evaluate(run.last)
    sys.stdout.write(f"{result.metrics.count} {result.metrics.accuracy} {len(result.predictions)}\\n")
"""


@pytest.mark.parametrize("ranks", [1, 2])
def test_a_program_trains_and_tests_on_all_of_its_ranks(pixel_shards, tmp_path, ranks):
    done = python("-c", PROGRAM, pixel_shards, tmp_path / "run", repr(SETTINGS), ranks=ranks)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) == 2 * ranks
    assert len(set(lines)) == 1
    assert lines[0].split()[0] == lines[0].split()[2] == "11"
