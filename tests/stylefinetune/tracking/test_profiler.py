import gzip
import json

import pytest
import torch
from torch.profiler import record_function

from stylefinetune.distributed.world import World
from stylefinetune.errors import RankError
from stylefinetune.tracking.profiler import StepProfiler

RANK_0 = World(rank=0, size=2, device=torch.device("cpu"))
RANK_1 = World(rank=1, size=2, device=torch.device("cpu"))


def run_steps(profiler, stop, start=0):
    for iteration in range(start, stop):
        profiler.begin(iteration)
        with record_function(f"step {iteration}"):
            torch.ones(9).sum()
    profiler.finish()


def steps_of(path):
    with gzip.open(path, "rt") as file:
        events = json.load(file)["traceEvents"]
    return sorted(
        {event["name"] for event in events if event["name"].startswith("step ") and event["cat"] == "user_annotation"}
    )


def test_exactly_the_iterations_of_the_interval_are_in_the_trace_and_the_table(tmp_path):
    lines = []
    run_steps(StepProfiler(range(2, 4), tmp_path, RANK_0, lines.append), 6)
    trace = tmp_path / "profile" / "2-4.json.gz"
    assert steps_of(trace) == ["step 2", "step 3"]
    table = (tmp_path / "profile" / "2-4.txt").read_text()
    assert "aten::sum" in table
    assert "step 2" in table
    assert len(lines) == 1
    assert str(trace) in lines[0]


@pytest.mark.parametrize(("start", "stop", "found"), [(3, 6, ["step 3"]), (0, 3, ["step 2"])])
def test_a_run_that_resumes_or_ends_within_the_interval_records_its_part(tmp_path, start, stop, found):
    run_steps(StepProfiler(range(2, 4), tmp_path, RANK_0, print), stop, start)
    assert steps_of(tmp_path / "profile" / "2-4.json.gz") == found


@pytest.mark.parametrize(("iterations", "world"), [(range(0), RANK_0), (range(2, 4), RANK_1), (range(9, 10), RANK_0)])
def test_without_an_interval_and_on_other_ranks_nothing_is_written(tmp_path, iterations, world):
    run_steps(StepProfiler(iterations, tmp_path, world, print), 6)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cant_be_written_is_one_line(tmp_path):
    (tmp_path / "profile").write_text("not a folder")
    with pytest.raises(RankError, match="can't be written"):
        run_steps(StepProfiler(range(2, 4), tmp_path, RANK_0, print), 6)
