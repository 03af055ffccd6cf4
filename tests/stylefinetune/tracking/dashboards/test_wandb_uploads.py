"""The checkpoints of a run at a W&B server, across kills, failures and uploads that hang."""

import threading

from tests.wandb_runs import (
    EVEN,
    assert_all_checkpoints,
    environment,
    local_rows,
    log_run,
    remote_rows,
    start_thread,
    wait_until,
)


def test_the_checkpoints_of_a_killed_run_are_at_the_server_once(server, tmp_path):
    env, run_dir, gate = environment(tmp_path / "home", server), tmp_path / "run", tmp_path / "gate"
    thread = start_thread(log_run, run_dir, env, ends=(12, "train"), gate=gate, artifacts="all")
    wait_until(lambda: server.artifacts.of_type("model"), thread)
    gate.touch()
    thread.join()
    log_run(run_dir, env, start=10, artifacts="all")
    assert_all_checkpoints(server)
    log_run(run_dir, env, start=20, artifacts="all")
    assert_all_checkpoints(server)
    assert list((run_dir / "wandb" / "artifact_files").iterdir()) == []
    assert list((tmp_path / "home").rglob("artifacts")) == []  # no copy in the home folder


def test_failed_uploads_are_a_warning_and_are_sent_by_the_next_start(server, tmp_path):
    env, run_dir = environment(tmp_path / "home", server), tmp_path / "run"
    server.artifacts.refuse = 1000
    printed = log_run(run_dir, env, artifacts="last", result=True)
    assert "Weights & Biases uploads up to 2 checkpoints of" in printed
    assert "iter_10 could not be uploaded" in printed
    assert [row["_step"] for row in remote_rows(server)] == EVEN
    assert not server.artifacts.of_type("model")
    server.artifacts.refuse = 0
    log_run(run_dir, env, start=20, artifacts="last")
    assert_all_checkpoints(server, (10, 20))


def test_an_upload_that_hangs_does_not_delay_the_end(server, tmp_path):
    env, run_dir = environment(tmp_path / "home", server), tmp_path / "run"
    server.artifacts.gate = threading.Event()
    printed = log_run(run_dir, env, artifacts="last", limits={"UPLOAD_SECONDS": 1, "FINISH_SECONDS": 1})
    assert "the artifacts are not sent after 1 s; run the same command again" in printed
    server.artifacts.gate.set()
    log_run(run_dir, env, start=20, artifacts="last")
    assert_all_checkpoints(server, (10, 20))
    assert remote_rows(server) == local_rows(run_dir)


def test_several_ranks_do_not_wait_longer_for_an_upload_than_for_each_other(server, tmp_path):
    env, server.artifacts.gate = environment(tmp_path / "home", server), threading.Event()
    limits = {"FINISH_SECONDS": 1}
    printed = log_run(tmp_path / "run", env, artifacts="last", limits=limits, ranks=2, stall_seconds=1.5)
    assert "waiting up to 2 s for the checkpoints" in printed
    assert "the artifacts are not sent after 2 s; run the same command again" in printed
