"""Runs with DeepSpeed have the original Caffe's results at every stage, and are resumed with other engines."""

import json

import pytest

from benchmarks.caffe_checks import compare_run, largest, run_turned
from benchmarks.caffe_results import WEIGHTS, read_micro
from tests.programs import ROOT, metrics, python, train_on

STAGES = (0, 1, 2, 3)
PROGRAM = ROOT / "tests" / "end_to_end" / "many_runs.py"
HALVES = ["--solver=solver_itersize2.prototxt", f"--weights={WEIGHTS['itersize2']}", "--tracking.wandb=disabled"]
EVERY = "--checkpoint.snapshot=1"


@pytest.fixture(scope="module")
def from_caffe(golden, micro):
    """The flags that fine-tune the micro net from Caffe's weights."""
    return [*micro, f"--weights={golden / 'micro' / 'finetune' / 'micro_ft_iter_0'}.caffemodel"]


def flags_of(from_caffe, run_dir, stage, *flags):
    return [*from_caffe, f"--run_dir={run_dir}", "--engine=deepspeed", f"--deepspeed.zero_stage={stage}", *flags]


@pytest.fixture(scope="module", params=[1, 2], ids=["1 rank", "2 ranks"])
def done(golden, from_caffe, tmp_path_factory, request):
    """Runs each stage with whole and half batches, and two in lower precision; returns the ranks and the folder."""
    folder = tmp_path_factory.mktemp("runs")
    runs = [flags_of(from_caffe, folder / str(stage), stage, EVERY) for stage in STAGES]
    runs += [flags_of(HALVES, folder / f"halves {stage}", stage, EVERY, "--data.workers=0") for stage in STAGES]
    for precision, stage in (("bf16", 1), ("fp16", 2)):
        runs.append(flags_of(from_caffe, folder / precision, stage, f"--train.precision={precision}"))
    (folder / "runs.json").write_text(json.dumps(runs))
    finished = python(PROGRAM, folder / "runs.json", ranks=request.param, timeout=400, cwd=golden / "micro")
    assert finished.returncode == 0, finished.stderr
    return request.param, folder


@pytest.fixture(scope="module")
def turned(golden, tmp_path_factory):
    """The results on Caffe's batches if the tie of iteration 34 is decided the other way."""
    return run_turned(golden, read_micro(golden, "scratch"), tmp_path_factory.mktemp("turned") / "run")


@pytest.mark.slow
@pytest.mark.parametrize("stage", STAGES)
def test_sixty_iterations_match_caffe(golden, done, stage):
    """Losses, tests, weights and momenta, to 1e-5."""
    ranks, folder = done
    rows = list(compare_run(folder / str(stage), read_micro(golden, "finetune"), f"stage {stage}", ranks))
    assert len(rows) == 5
    assert not [str(row) for row in rows if not row.holds]


@pytest.mark.slow
@pytest.mark.parametrize("stage", STAGES)
def test_sixty_iterations_of_two_half_batches_match_caffe(golden, done, turned, stage):
    """To 1e-5, from iteration 35 on also of an exact run in which the tie is decided the other way."""
    ranks, folder = done
    run_dir, truth = folder / f"halves {stage}", read_micro(golden, "itersize2")
    rows = list(compare_run(run_dir, truth, f"halves at stage {stage}", ranks, turned))
    assert len(rows) >= 8
    assert not [str(row) for row in rows if not row.holds]


@pytest.mark.slow
@pytest.mark.parametrize(("precision", "farthest"), [("bf16", 0.05), ("fp16", 0.05)])
def test_lower_precisions_stay_near_fp32(golden, done, precision, farthest):
    _, folder = done
    losses = [entry["loss"] for entry in metrics(folder / precision, "train")]
    assert 1e-5 < largest(losses, read_micro(golden, "finetune").losses) < farthest  # of 2.9


@pytest.mark.slow
def test_a_run_moves_from_stage_to_stage_to_pytorch_and_over_ranks(golden, from_caffe, tmp_path):
    """Stage 1 on 2 ranks, stage 2 on 1, stage 3 on 3, PyTorch alone on 2."""
    to = [(2, 1, 15), (1, 2, 30), (3, 3, 45)]
    for ranks, stage, max_iter in to:
        finished = train_on(ranks, *flags_of(from_caffe, tmp_path, stage, EVERY, f"--train.max_iter={max_iter}"))
        assert finished.returncode == 0, finished.stderr
    finished = train_on(2, *from_caffe, EVERY, f"--run_dir={tmp_path}")
    assert finished.returncode == 0, finished.stderr
    rows = list(compare_run(tmp_path, read_micro(golden, "finetune"), "moved", 2))
    assert len(rows) == 5
    assert not [str(row) for row in rows if not row.holds]
    assert [entry["iteration"] for entry in metrics(tmp_path, "train")] == list(range(60))


def test_a_mistake_is_one_line_and_exit_code_2(from_caffe, tmp_path):
    wrong = flags_of(from_caffe, tmp_path, 1, "--deepspeed.extra={zero_optimization: {no_such_key: 1}}")
    finished = train_on(1, *wrong)
    assert finished.returncode == 2, finished.stderr
    errors = [line for line in finished.stderr.splitlines() if "error" in line]
    assert len(errors) == 1
    assert "no_such_key" in errors[0]
    assert "Traceback" not in finished.stderr


def test_the_settings_of_deepspeed_are_printed(from_caffe, tmp_path):
    shown = train_on(2, *flags_of(from_caffe, tmp_path / "run", 3), "--print_deepspeed_config")
    assert shown.returncode == 0, shown.stderr
    settings = json.loads(shown.stdout)
    assert settings["zero_optimization"]["stage"] == 3
    assert settings["train_micro_batch_size_per_gpu"] == 5
    assert not (tmp_path / "run").exists()
