import json
import subprocess
import sys

import pytest

from launch.exit_code import MAX_REQUEUES, main
from tests.programs import ROOT


def output_of(capsys, run, *arguments):
    main([str(run), *arguments])
    return capsys.readouterr()


def write_exit_record(run, code, *, requeue):
    run.mkdir(exist_ok=True)
    (run / "exit.json").write_text(json.dumps({"code": code, "requeue": requeue}))


@pytest.mark.parametrize(
    ("exit_record", "arguments", "output"),
    [
        ((138, True), ["1"], "138"),
        ((138, True), ["1", "--job=7"], "138 requeue"),
        ((130, False), ["1", "--job=7"], "130"),
        ((2, False), ["1", "--job=7", "--signal=USR1"], "2"),  # a user's mistake, although it was asked to stop
        ((0, False), ["0", "--job=7"], "0"),
        (None, ["137", "--job=7"], "137"),
        (None, ["1", "--signal=TERM"], "143"),
        (None, ["1", "--job=7", "--signal=USR1"], "138 requeue"),
        (None, ["1", "--job=7", "--signal=INT"], "130"),
    ],
)
def test_exit_json_counts_first_then_the_signal_then_the_launcher(tmp_path, capsys, exit_record, arguments, output):
    if exit_record:
        write_exit_record(tmp_path / "a run", exit_record[0], requeue=exit_record[1])
    printed = output_of(capsys, tmp_path / "a run", *arguments)
    assert (printed.out, printed.err) == (f"{output}\n", "")


def test_requeues_that_bring_no_new_checkpoint_end(tmp_path, capsys):
    write_exit_record(tmp_path, 138, requeue=True)
    (tmp_path / "checkpoints" / "iter_9").mkdir(parents=True)
    (tmp_path / "checkpoints" / "iter_30.damaged").mkdir()
    printed = [output_of(capsys, tmp_path, "1", "--job=7").out for _ in range(MAX_REQUEUES)]
    assert printed == ["138 requeue\n"] * MAX_REQUEUES
    last = output_of(capsys, tmp_path, "1", "--job=7")
    assert last.out == "138\n"
    assert f"requeues in a row have brought no new checkpoint of {tmp_path}" in last.err
    (tmp_path / "checkpoints" / "iter_10").mkdir()
    assert output_of(capsys, tmp_path, "1", "--job=7").out == "138 requeue\n"


def test_a_new_job_is_requeued_again(tmp_path, capsys):
    write_exit_record(tmp_path, 138, requeue=True)
    for _ in range(MAX_REQUEUES):
        output_of(capsys, tmp_path, "1", "--job=7")
    assert output_of(capsys, tmp_path, "1", "--job=8").out == "138 requeue\n"


def test_a_run_that_was_stopped_before_it_made_its_folder_is_requeued(tmp_path):
    arguments = [tmp_path / "none yet", "138", "--signal=USR1", "--job=7"]
    program = [sys.executable, ROOT / "launch" / "exit_code.py", *arguments]
    done = subprocess.run(program, capture_output=True, text=True, check=True, cwd=tmp_path)
    assert (done.stdout, done.stderr) == ("138 requeue\n", "")
