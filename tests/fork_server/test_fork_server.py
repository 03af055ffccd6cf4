import signal
import sys
import time

import psutil
import pytest

from tests.fork_server.client import fork_server
from tests.programs import python

SUM = """
import sys, torch
from stylefinetune.distributed.world import World

world = World.join()
sys.stdout.write(f"{world.rank}: {world.sum(torch.ones(1)).item()}\\n")
world.shutdown()
"""


def test_a_program_has_its_arguments_environment_folder_output_and_exit_code(tmp_path):
    program = tmp_path / "program.py"
    program.write_text(
        "import os, sys\nprint(sys.argv, os.environ['HERE'], os.getcwd())\nprint('error', file=sys.stderr)\nsys.exit(3)"
    )
    done = python(program, "a", "b", env={"HERE": "there"}, cwd=tmp_path)
    assert done.stdout == f"['{program}', 'a', 'b'] there {tmp_path}\n"
    assert (done.stderr, done.returncode, done.returncodes) == ("error\n", 3, [3])
    assert python("-c", "import sys; sys.exit('why')").stderr == "why\n"
    assert python("-m", "stylefinetune.check", "--no_such_key=1").returncode == 2


def test_an_uncaught_error_prints_its_traceback_and_exits_with_1():
    done = python("-c", "raise ValueError('wrong')")
    assert done.returncode == 1
    assert done.stderr.endswith("ValueError: wrong\n")


def test_ranks_reduce_together():
    done = python("-c", SUM, ranks=3)
    assert done.returncodes == [0, 0, 0], done.stderr
    assert sorted(done.stdout.splitlines()) == ["0: 3.0", "1: 3.0", "2: 3.0"]


def test_a_rank_that_fails_ends_the_others():
    program = "import os, sys, time; os.environ['RANK'] == '1' and sys.exit(4); time.sleep(600)"
    done = python("-c", program, ranks=3)
    assert done.returncodes == [-signal.SIGTERM, 4, -signal.SIGTERM]
    assert done.returncode == 4


@pytest.mark.parametrize("ranks", [1, 2])
def test_a_program_that_takes_too_long_is_killed_with_its_children(ranks):
    program = fork_server().start("-c", "print('said', flush=True); import time; time.sleep(600)", ranks=ranks)
    family = [psutil.Process(program.pid), *psutil.Process(program.pid).children()]
    assert program.poll() is None
    with pytest.raises(TimeoutError, match="still running"):
        program.wait(0.2)
    psutil.wait_procs(family, timeout=60)
    assert not any(process.is_running() and process.status() != psutil.STATUS_ZOMBIE for process in family)


def test_a_program_that_is_killed_at_once_has_ended():
    for _ in range(10):
        program = fork_server().start("-c", "import time; time.sleep(600)")
        program.send_signal(signal.SIGKILL)
        assert program.wait(60).returncode == -signal.SIGKILL


def test_a_program_has_ended_once_poll_says_so():
    program = fork_server().start("-c", "")
    while program.poll() is None:
        time.sleep(0.01)
    assert program.wait(60).returncode == 0


def test_what_only_a_new_interpreter_reads_is_refused():
    with pytest.raises(AssertionError, match="PYTHONHASHSEED"):
        python("-c", "", env={"PYTHONHASHSEED": "1"})
    assert "torch" in python("-c", "import sys; print('torch' in sys.modules and 'torch')").stdout
    assert sys.executable == python("-c", "import sys; print(sys.executable)").stdout.strip()


def test_a_program_that_takes_too_long_shows_where_it_is():
    stuck = fork_server().start("-c", "def wait_for_ever():\n    import time\n    time.sleep(600)\nwait_for_ever()")
    with pytest.raises(TimeoutError, match=r"still running after 1 s:(.|\n)*in wait_for_ever"):
        stuck.wait(1)
