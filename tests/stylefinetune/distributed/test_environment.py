import os
import socket

import pytest

from stylefinetune.distributed import environment
from stylefinetune.distributed.environment import Launch, await_address, launch_id
from stylefinetune.errors import LostRankError, RankError

TWO = {"WORLD_SIZE": "2", "RANK": "1", "LOCAL_RANK": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"}
PREFIXES = ("SLURM_", "OMPI_", "PMI_", "MV2_", "JSM_", "TORCHELASTIC_", "MASTER_")


@pytest.fixture
def read(monkeypatch):
    """Read the launch from these variables alone."""

    def read(**variables):
        for name in list(os.environ):
            if name.startswith(PREFIXES) or name in (*TWO, "OMP_NUM_THREADS", "ENVIRONMENT"):
                monkeypatch.delenv(name)
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        return Launch.read()

    return read


def test_without_a_launcher_a_process_is_the_only_rank(read):
    assert read() == Launch(rank=0, size=1, local_rank=0, restarts=0, launcher=None, has_agent_store=False)


def test_the_variables_of_torchrun_are_read(read):
    elastic = {"TORCHELASTIC_RUN_ID": "7", "TORCHELASTIC_RESTART_COUNT": "3", "TORCHELASTIC_USE_AGENT_STORE": "True"}
    launch = read(**TWO, **elastic)
    assert launch == Launch(1, 2, 1, restarts=3, launcher=os.getppid(), has_agent_store=True)
    assert not launch.is_orphan


@pytest.mark.parametrize(
    ("variables", "line"),
    [
        ({"RANK": "x"}, "RANK is x; it must be a number of at least 0"),
        ({"RANK": "-1"}, "RANK is -1; it must be a number of at least 0"),
        ({"RANK": ""}, "RANK is empty; it must be a number of at least 0"),
        ({"RANK": "1"}, "RANK is 1, but WORLD_SIZE is not set; the ranks are numbered from 0 to WORLD_SIZE - 1"),
        ({"LOCAL_RANK": "one"}, "LOCAL_RANK is one; it must be a number of at least 0"),
        ({"WORLD_SIZE": "0"}, "WORLD_SIZE is 0; it must be a number of at least 1"),
        ({"WORLD_SIZE": "2.0"}, "WORLD_SIZE is 2.0; it must be a number of at least 1"),
        ({**TWO, "RANK": "2"}, "RANK is 2, but WORLD_SIZE is 2; the ranks are numbered from 0 to WORLD_SIZE - 1"),
        ({**TWO, "MASTER_PORT": "99999"}, "MASTER_PORT is 99999; it must be a number from 1 to 65535"),
        ({**TWO, "MASTER_PORT": "abc"}, "MASTER_PORT is abc; it must be a number from 1 to 65535"),
        ({"WORLD_SIZE": "2", "RANK": "0"}, "WORLD_SIZE is 2, but LOCAL_RANK, MASTER_ADDR, MASTER_PORT are not set"),
        ({name: TWO[name] for name in TWO if name != "LOCAL_RANK"}, "WORLD_SIZE is 2, but LOCAL_RANK is not set; "),
        ({"OMP_NUM_THREADS": "x"}, "OMP_NUM_THREADS is x; it must be a number of threads, at least 1"),
        ({"OMP_NUM_THREADS": "0"}, "OMP_NUM_THREADS is 0; it must be a number of threads, at least 1"),
    ],
    ids=str,
)  # fmt: skip
def test_a_wrong_variable_is_one_line(read, variables, line):
    with pytest.raises(RankError) as error:
        read(**variables)
    assert str(error.value).startswith(line)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("threads", ["", "1", " 4 ", "4,2"])
def test_numbers_of_threads_that_openmp_takes_are_accepted(read, threads):
    read(OMP_NUM_THREADS=threads)


SRUN = {
    "SLURM_JOB_ID": "7",
    "SLURM_NTASKS": "2",
    "SLURM_PROCID": "0",
    "SLURM_STEP_ID": "0",
    "SLURM_STEP_NUM_TASKS": "2",
}


@pytest.mark.parametrize(
    ("variables", "name"),
    [
        (SRUN, "SLURM_NTASKS"),
        ({**SRUN, "ENVIRONMENT": "BATCH"}, "SLURM_NTASKS"),  # srun in the script of a job
        ({"SLURM_NTASKS": "2", "SLURM_PROCID": "1"}, "SLURM_NTASKS"),
        ({"OMPI_COMM_WORLD_SIZE": "2", "OMPI_COMM_WORLD_RANK": "0"}, "OMPI_COMM_WORLD_SIZE"),
        ({"PMI_SIZE": "2", "PMI_RANK": "1"}, "PMI_SIZE"),
    ],
    ids=str,
)
def test_processes_that_srun_or_mpirun_started_without_torchrun_are_refused(read, variables, name):
    with pytest.raises(RankError, match=f"^{name} is 2, but WORLD_SIZE is not set: .* start one process per node"):
        read(**variables)
    assert read(**variables, WORLD_SIZE="1").size == 1  # a separate run in each
    assert read(**variables, **TWO).rank == 1


@pytest.mark.parametrize(
    "variables",
    [
        {"SLURM_JOB_ID": "7", "SLURM_NTASKS": "4"},  # a shell of salloc
        {"SLURM_NTASKS": "4", "SLURM_PROCID": "0", "SLURM_STEP_NUM_TASKS": "1"},  # the same as an interactive step
        {"SLURM_NTASKS": "4", "SLURM_PROCID": "0", "ENVIRONMENT": "BATCH"},  # the script of a job
        {"OMPI_COMM_WORLD_SIZE": "1"},
    ],
    ids=str,
)
def test_one_process_of_an_allocation_is_accepted(read, variables):
    """The variables are those of Slurm 22.05."""
    assert read(**variables).size == 1


def test_a_launcher_that_has_exited_is_reported(read, monkeypatch):
    monkeypatch.setattr(os, "getppid", lambda: 1)
    monkeypatch.setattr(environment, "_LAUNCHERS", ("no process",))
    with pytest.raises(LostRankError, match=f"the launcher of rank 1 on {socket.gethostname()} is gone") as error:
        read(**TWO, TORCHELASTIC_RUN_ID="7")
    assert (error.value.code, error.value.reports) == (5, True)
    monkeypatch.setattr(environment, "_LAUNCHERS", ("",))  # process 1 of a container is the launcher
    assert read(**TWO, TORCHELASTIC_RUN_ID="7").launcher == 1


def test_a_name_that_stays_unknown_is_reported_and_one_that_appears_is_awaited(monkeypatch):
    names = iter([OSError(-2, "Name or service not known")] * 3)

    def resolve(_address, _port):
        for error in names:
            raise error

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    monkeypatch.setattr(environment.time, "sleep", lambda _seconds: None)
    await_address("n1")
    assert next(names, None) is None
    names = iter([OSError(-2, "Name or service not known")] * 1000)
    monkeypatch.setattr(environment, "RESOLVE_SECONDS", 0.0)
    with pytest.raises(RankError, match=r"MASTER_ADDR is n2, which can't be resolved \(Name or service not known\)"):
        await_address("n2")


def test_processes_of_one_launch_have_the_same_id(read, monkeypatch):
    read()
    assert launch_id() == ""
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")  # torchrun's default
    assert launch_id() == f"torchrun {socket.gethostname()} {os.getppid()}"
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "abc")
    assert launch_id() == "abc"
    monkeypatch.setenv("SLURM_JOB_ID", "7")  # requeued, it has the same id on other nodes
    assert launch_id() == "Slurm job 7"
