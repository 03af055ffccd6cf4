import os
import signal
import subprocess
import sys

import psutil
import torch

from stylefinetune.data.loader import load_batches
from stylefinetune.data.sampler import BatchSlices
from tests.programs import ROOT
from tests.stylefinetune.data.test_dataset import pictures

CPU = torch.device("cpu")

RANK = """
import sys, torch
from stylefinetune.data.loader import load_batches
from stylefinetune.data.sampler import BatchSlices
from tests.stylefinetune.data.test_dataset import pictures

batches = load_batches(pictures(sys.argv[1]), BatchSlices(0, 40000, 10, 0, 1), 2, torch.device("cpu"))
next(batches)
print("under way", flush=True)
sys.stdin.read()
"""


def test_a_signal_to_a_whole_group_leaves_the_decoding_processes_at_work(pixel_shards):
    others = psutil.Process().children()
    decoded = load_batches(pictures(pixel_shards), BatchSlices(0, 400, 10, 0, 1), 2, CPU)
    mine = [child for child in psutil.Process().children() if child not in others]
    assert len(mine) == 2
    for worker in mine:  # which may not have begun yet
        for number in (signal.SIGINT, signal.SIGUSR1):
            worker.send_signal(number)
    # SIGTERM counts from its own parent alone, which this shell is not.
    subprocess.run(["sh", "-c", f"kill -TERM {mine[0].pid} {mine[1].pid}"], check=True)
    assert len(list(decoded)) == 40


def test_a_decoding_process_that_hangs_ends_with_its_rank_even_so(pixel_shards):
    rank = subprocess.Popen(
        [sys.executable, "-c", RANK, pixel_shards],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert rank.stdout.readline() == b"under way\n"
    workers = psutil.Process(rank.pid).children()
    assert len(workers) == 2
    for worker in workers:
        worker.suspend()
    rank.kill()
    rank.communicate(timeout=30)  # which also waits for all that hold its output
    _, left = psutil.wait_procs(workers, timeout=30)
    assert left == []
