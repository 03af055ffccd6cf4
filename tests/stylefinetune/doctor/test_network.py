import torch

from stylefinetune.doctor.network import check_all_reduce


def test_two_processes_add_up(monkeypatch):
    """In two processes of their own, as on a machine without GPUs."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    finding = check_all_reduce()
    assert (finding.name, finding.level) == ("gloo", "ok"), finding
    assert finding.found.startswith("all-reduce of 16 MiB on 2 processes: ")


def test_processes_that_take_too_long_fail(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    finding = check_all_reduce(seconds=0.01)
    assert (finding.level, finding.found) == ("failed", "an all-reduce is not done after 0.01 s")
    assert "GLOO_SOCKET_IFNAME" in finding.remedy
