import gc

import pytest
import torch

from stylefinetune.data.slot_ring import SlotRing
from tests.stylefinetune.data.loading import CPU


def filled(ring, value, count=2):
    """Take a slot, fill it with a value and hand it out."""
    slot = ring.take()
    ring.view(slot, count)[:] = value
    return ring.hand_out(slot, count)


def test_a_slot_is_free_once_no_tensor_refers_to_it():
    ring = SlotRing(2, 3, (4, 5), CPU)
    first = filled(ring, 1)
    assert first.shape == (2, 4, 5, 3)
    view, address = first[1, :, 2], first.data_ptr()
    del first
    other = filled(ring, 2)  # a copy, since this was the last slot
    assert filled(ring, 3).data_ptr() != address
    assert (view.unique().item(), other.unique().item()) == (1, 2)
    assert address not in {filled(ring, value).data_ptr() for value in range(4)}
    del view
    assert address in {filled(ring, value).data_ptr() for value in range(4)}


def test_kept_batches_beyond_the_slots_are_copies():
    ring = SlotRing(3, 2, (4, 5), CPU)
    kept = [filled(ring, value) for value in range(10)]
    assert [tensor.unique().tolist() for tensor in kept] == [[value] for value in range(10)]
    assert len({tensor.data_ptr() for tensor in kept}) == 10


def test_slots_that_nobody_fills_any_more_are_taken_back():
    ring = SlotRing(3, 2, (4, 5), CPU)
    slots = {ring.take() for _ in range(3)}
    ring.take_back()
    assert {ring.take() for _ in range(3)} == slots


def test_an_empty_slice_has_no_pictures():
    assert filled(SlotRing(2, 3, (4, 5), CPU), 1, count=0).shape == (0, 4, 5, 3)


def fill(ring):
    ring.view(1, 2)[:] = 7


def test_a_process_that_is_not_a_fork_fills_the_memory_of_this_process(monkeypatch):
    """As on macOS, and with Python 3.14."""
    spawn = torch.multiprocessing.get_context("spawn")
    monkeypatch.setattr("multiprocessing.get_start_method", spawn.get_start_method)
    ring = SlotRing(3, 2, (4, 5), CPU)
    ring.view(1, 2)[:] = 0
    process = spawn.Process(target=fill, args=(ring,))
    process.start()
    process.join()
    assert process.exitcode == 0
    assert ring.view(1, 2).min() == 7


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_slot_is_not_used_again_before_its_copy_to_the_gpu_is_complete():
    device = torch.device("cuda")
    ring = SlotRing(2, 2, (512, 512), device)
    ring.pin()
    assert torch.from_numpy(ring.view(0, 2)).is_pinned()
    copies = []
    for value in range(40):
        torch.cuda._sleep(1_000_000)  # so that the copies are late
        copies.append(filled(ring, value))
    assert [tensor.unique().tolist() for tensor in copies] == [[value] for value in range(40)]
    del ring
    gc.collect()
    torch.cuda.synchronize()
