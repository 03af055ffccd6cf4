import logging

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from stylefinetune.tracking.dashboards.tensorboard_run import TensorBoardRun
from tests.run_facts import FACTS

LOG = logging.getLogger("test_tensorboard_run")


def entry(iteration, phase="train", **values):
    return {"iteration": iteration, "phase": phase, "epoch": 0.5, "pictures": 9, **values, "time": 1000.0 + iteration}


def start(folder, logged=()):
    return TensorBoardRun(folder, "run_dir: runs/a\n", FACTS, logged, LOG)


def read(folder):
    """Return what TensorBoard shows, by tag: (step, wall time, value)."""
    events = EventAccumulator(str(folder / "tensorboard"))
    events.Reload()
    return {
        tag: [(event.step, event.wall_time, round(event.value, 6)) for event in events.Scalars(tag)]
        for tag in events.Tags()["scalars"]
    }, [event.tensor_proto.string_val[0].decode() for event in events.Tensors("facts/text_summary")]


def test_a_run_has_the_names_and_times_of_metrics_jsonl(tmp_path):
    run = start(tmp_path)
    run.log(entry(0, "test", accuracy=0.25))
    run.log(entry(0, loss=2.5, lr=0.125))
    run.log(entry(5, "checkpoint", pause=0.1))
    run.commit()
    run.finish(failed=False)
    scalars, (facts,) = read(tmp_path)
    assert scalars == {
        "test/accuracy": [(0, 1000, 0.25)],
        "train/loss": [(0, 1000, 2.5)],
        "train/lr": [(0, 1000, 0.125)],
    }
    assert "Bokeh" in facts


def test_a_resumed_run_has_one_history(tmp_path):
    """The first start was killed at iteration 20, and the run resumes from a checkpoint of iteration 10."""
    first = start(tmp_path)
    for iteration in (0, 10, 20):
        first.log(entry(iteration, loss=iteration / 10))
    first.finish(failed=True)
    second = start(tmp_path, [entry(0, loss=0.0)])
    for iteration in (10, 20, 30):
        second.log(entry(iteration, loss=iteration / 10))
    second.finish(failed=False)
    scalars, _ = read(tmp_path)
    assert [(step, value) for step, _, value in scalars["train/loss"]] == [(0, 0), (10, 1), (20, 2), (30, 3)]
    assert len(list((tmp_path / "tensorboard").iterdir())) == 1


@pytest.mark.parametrize("lost", ["the folder", "the disk"])
def test_a_failure_is_one_line_and_stops_nothing(tmp_path, caplog, lost):
    if lost == "the folder":
        (tmp_path / "tensorboard").write_text("not a folder")
        run = start(tmp_path)
    else:
        run = start(tmp_path)
        run._writer.close()
        run._writer.add_scalar = full_disk
    for iteration in range(3):
        run.log(entry(iteration, loss=1.0))
    run.finish(failed=False)
    assert len(caplog.messages) == 1
    assert caplog.messages[0].startswith("TensorBoard failed (")


def full_disk(*_):
    raise OSError(28, "No space left on device")
