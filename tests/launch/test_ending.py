import json
import subprocess
import sys

import pytest

from launch.ending import MOST_IN_VAIN, main
from tests.programs import ROOT


def tell(capsys, run, *arguments):
    main([str(run), *arguments])
    return capsys.readouterr()


def write(run, code, *, requeue):
    run.mkdir(exist_ok=True)
    (run / "exit.json").write_text(json.dumps({"code": code, "requeue": requeue}))


@pytest.mark.parametrize(
    ("ending", "arguments", "said"),
    [
        ((138, True), ["1"], "138"),
        ((138, True), ["1", "--job=7"], "138 requeue"),
        ((130, False), ["1", "--job=7"], "130"),
        ((2, False), ["1", "--job=7", "--asked=USR1"], "2"),  # it told of a mistake, though it was asked to stop
        ((0, False), ["0", "--job=7"], "0"),
        (None, ["137", "--job=7"], "137"),
        (None, ["1", "--asked=TERM"], "143"),
        (None, ["1", "--job=7", "--asked=USR1"], "138 requeue"),
        (None, ["1", "--job=7", "--asked=INT"], "130"),
    ],
)
def test_the_runs_own_word_counts_then_the_signal_then_the_launcher(tmp_path, capsys, ending, arguments, said):
    if ending:
        write(tmp_path / "a run", ending[0], requeue=ending[1])
    told = tell(capsys, tmp_path / "a run", *arguments)
    assert (told.out, told.err) == (f"{said}\n", "")


def test_requeues_that_bring_no_new_checkpoint_come_to_an_end(tmp_path, capsys):
    write(tmp_path, 138, requeue=True)
    (tmp_path / "checkpoints" / "iter_9").mkdir(parents=True)
    (tmp_path / "checkpoints" / "iter_30.damaged").mkdir()
    once = [tell(capsys, tmp_path, "1", "--job=7").out for _ in range(MOST_IN_VAIN)]
    assert once == ["138 requeue\n"] * MOST_IN_VAIN
    told = tell(capsys, tmp_path, "1", "--job=7")
    assert told.out == "138\n"
    assert f"requeues in a row have brought no new checkpoint of {tmp_path}" in told.err
    (tmp_path / "checkpoints" / "iter_10").mkdir()
    assert tell(capsys, tmp_path, "1", "--job=7").out == "138 requeue\n"


def test_a_job_submitted_anew_is_requeued_again(tmp_path, capsys):
    write(tmp_path, 138, requeue=True)
    for _ in range(MOST_IN_VAIN):
        tell(capsys, tmp_path, "1", "--job=7")
    assert tell(capsys, tmp_path, "1", "--job=8").out == "138 requeue\n"


def test_a_run_that_was_stopped_before_it_made_its_folder_is_requeued_too(tmp_path):
    program = [sys.executable, ROOT / "launch" / "ending.py", tmp_path / "none yet", "138", "--asked=USR1", "--job=7"]
    done = subprocess.run(program, capture_output=True, text=True, check=True, cwd=tmp_path)
    assert (done.stdout, done.stderr) == ("138 requeue\n", "")
