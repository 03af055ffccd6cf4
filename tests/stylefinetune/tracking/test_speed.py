import dataclasses

import psutil
import pytest
import torch

from stylefinetune.tracking.speed import describe_speed, measure_speed, peak_memory
from tests.run_facts import FACTS


def test_the_share_of_the_peak_is_known_where_the_device_is():
    facts = dataclasses.replace(FACTS, flops=4_000_000_000, peak_flops=2 * 100e12)
    speed = measure_speed(12_500.0, facts)
    assert speed == {"images_per_second": 12_500, "tflops": 50, "mfu": 0.25}
    assert describe_speed(speed | {"peak_memory_bytes": 3 * 2**29}) == [
        "50 TFLOP/s (25.0% of the peak)",
        "peak memory 1.5 GiB",
    ]


def test_what_is_not_known_is_left_out():
    assert measure_speed(2.0, dataclasses.replace(FACTS, flops=None)) == {"images_per_second": 2}
    speed = measure_speed(500.0, FACTS)
    assert speed == {"images_per_second": 500, "tflops": 2}
    assert describe_speed(speed) == ["2 TFLOP/s"]


def test_the_peak_of_the_memory_is_that_of_this_process():
    resident = psutil.Process().memory_info().rss
    assert 0.9 * resident < peak_memory(torch.device("cpu")) < psutil.virtual_memory().total


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu_it_is_that_of_the_tensors():
    held = torch.zeros(2**20, device="cuda")
    assert peak_memory(torch.device("cuda")) >= held.nbytes
