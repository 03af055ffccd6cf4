import multiprocessing

import pytest
import torch

from stylefinetune.distributed.bandwidth import AllReduceError, measure_all_reduce


def test_a_process_that_fails_is_reported_and_all_end():
    """In a process of its own, as every measurement."""
    with pytest.raises(AllReduceError, match="an all-reduce fails: "):
        measure_all_reduce("no_such_backend", 1, 1024, 60)
    assert multiprocessing.active_children() == []


@pytest.mark.gpu
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
def test_gpus_have_a_bandwidth():
    assert measure_all_reduce("nccl", torch.cuda.device_count(), 2**26, 90) > 0
