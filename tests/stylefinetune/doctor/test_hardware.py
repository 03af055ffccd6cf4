import os

import pytest
import torch

from stylefinetune.doctor.hardware import check_gpus, check_threads


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU that works")
def test_a_gpu_that_pytorch_cannot_use_fails(tmp_path):
    assert [finding.found for finding in check_gpus(tmp_path)] == ["none; runs use the CPU"]
    (tmp_path / "gpus" / "0000:01:00.0").mkdir(parents=True)
    (finding,) = check_gpus(tmp_path)
    assert (finding.level, finding.found) == ("failed", "1 in this machine, but PyTorch can't use them")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_each_gpu_computes():
    findings = check_gpus()
    assert len(findings) == torch.cuda.device_count()
    assert all(finding.level != "failed" for finding in findings)


def test_more_threads_than_cpus_are_a_warning():
    assert check_threads(None).level == "ok"
    assert check_threads("2", cpus=2).level == "ok"
    finding = check_threads("64", cpus=2)
    assert finding.level == "warning"
    assert finding.found == f"2 for this process, {os.cpu_count()} in the machine; OMP_NUM_THREADS is 64"
