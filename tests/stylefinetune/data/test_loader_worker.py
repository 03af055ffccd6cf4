import gc
import os
import signal
import subprocess
import sys

import psutil

from shards.format.order import RankBatchSampler
from stylefinetune.data.loader import load_batches
from tests.programs import ROOT, python
from tests.stylefinetune.data.loading import CPU, open_pictures

RANK = """
import sys, torch
from stylefinetune.data.loader import load_batches
from shards.format.order import RankBatchSampler
from tests.stylefinetune.data.loading import open_pictures

batches = load_batches(open_pictures(sys.argv[1]), RankBatchSampler(0, 40000, 10, 0, 1), 2, torch.device("cpu"))
next(batches)
print("started", flush=True)
sys.stdin.read()
"""


def test_workers_ignore_signals_to_the_whole_process_group(pixel_shards):
    others = psutil.Process().children()
    decoded = load_batches(open_pictures(pixel_shards), RankBatchSampler(0, 400, 10, 0, 1), 2, CPU)
    mine = [child for child in psutil.Process().children() if child not in others]
    assert len(mine) == 2
    for worker in mine:  # they may not have started yet
        for number in (signal.SIGINT, signal.SIGUSR1):
            worker.send_signal(number)
    # Only a SIGTERM of the worker's own rank counts; this shell is another process.
    subprocess.run(["sh", "-c", f"kill -TERM {mine[0].pid} {mine[1].pid}"], check=True)
    assert len(list(decoded)) == 40


def test_ended_workers_keep_no_files_open(pixel_shards):
    open_files = []
    for _ in range(3):
        list(load_batches(open_pictures(pixel_shards), RankBatchSampler(0, 20, 10, 0, 1), 2, CPU))
        gc.collect()
        open_files.append(psutil.Process().num_fds())
    assert open_files[1] == open_files[2]


def test_a_hanging_worker_dies_with_its_rank(pixel_shards):
    rank = subprocess.Popen(
        [sys.executable, "-c", RANK, pixel_shards],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert rank.stdout.readline() == b"started\n"
    workers = psutil.Process(rank.pid).children()
    assert len(workers) == 2
    for worker in workers:
        worker.suspend()
    rank.kill()
    rank.communicate(timeout=30)  # also waits for the workers, which inherit its output
    _, alive = psutil.wait_procs(workers, timeout=30)
    assert alive == []


HANGING = """
import os, sys, time, torch
from stylefinetune.data.loader import BatchLoader
from tests.stylefinetune.data.loading import open_pictures

os.register_at_fork(after_in_child=lambda: time.sleep(3600))
loader = BatchLoader(open_pictures(sys.argv[1]), 10, 1, torch.device("cpu"))
"""


def test_a_program_ends_though_a_worker_hangs_before_its_first_line(pixel_shards):
    assert python("-c", HANGING, pixel_shards, timeout=240).returncode == 0
