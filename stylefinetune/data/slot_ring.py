"""Preallocated memory for the pictures of a few batches, which worker processes fill and the rank hands out."""

import collections
import mmap
import multiprocessing
import weakref
from typing import Any

import numpy as np
import numpy.typing as npt
import torch


class SlotRing:
    """Slots of `capacity` pictures of one size, in memory that this process and its workers share.

    A slot is free, being filled, or handed out. A slot that was handed out becomes free when no tensor refers to its
    memory any more.

    Args:
        slots: number of slots.
        capacity: largest number of pictures in a slot.
        size: (height, width) of the pictures.
        device: device on which the pictures are handed out.
    """

    def __init__(self, slots: int, capacity: int, size: tuple[int, int], device: torch.device) -> None:
        self._memory = _allocate(slots * capacity * size[0] * size[1] * 3).view(slots, capacity, *size, 3)
        self._device = device
        self._free = collections.deque(range(slots))
        self._being_filled: set[int] = set()
        self._copies: collections.deque[tuple[torch.cuda.Event, torch.Tensor]] = collections.deque()  # to the device

    def pin(self) -> None:
        """Lock the memory in its place for faster copies to a GPU; call this after the workers have started."""
        cuda: Any = torch.cuda.cudart()
        if int(cuda.cudaHostRegister(self._memory.data_ptr(), self._memory.nbytes, 0)) == 0:  # else copies are slower
            weakref.finalize(self, _unpin, self._memory, self._copies).atexit = False

    def take(self) -> int:
        """Return the number of a free slot, to be filled; wait for a copy to the device if it reads the last one."""
        while not self._free and self._copies:
            self._copies.popleft()[0].synchronize()
        slot = self._free.popleft()
        self._being_filled.add(slot)
        return slot

    def view(self, slot: int, count: int) -> npt.NDArray[np.uint8]:
        """Return the memory of the first `count` pictures of a slot: uint8[count, H, W, 3]."""
        return self._memory.numpy()[slot, :count]

    def hand_out(self, slot: int, count: int) -> torch.Tensor:
        """Return the pictures of a filled slot on the device: uint8[count, H, W, 3].

        If the caller keeps so many batches that this is the last slot, the pictures are copied.
        """
        self._being_filled.remove(slot)
        pictures = self.view(slot, count)
        if not self._free and self._device.type == "cpu":
            self._free.append(slot)
            return torch.from_numpy(pictures.copy())
        weakref.finalize(pictures, self._free.append, slot).atexit = False  # a tensor of it keeps the array alive
        tensor = torch.from_numpy(pictures)
        return tensor if self._device.type == "cpu" else self._copy_to_device(tensor)

    def take_back(self) -> None:
        """Free the slots that are being filled, since nobody fills them any more."""
        self._free.extend(self._being_filled)
        self._being_filled.clear()

    def _copy_to_device(self, pictures: torch.Tensor) -> torch.Tensor:
        """Start to copy pictures to the GPU, and keep their slot until the copy is complete."""
        copy = pictures.to(self._device, non_blocking=True)
        event = torch.cuda.Event()
        event.record()
        self._copies.append((event, pictures))
        while self._copies and self._copies[0][0].query():
            self._copies.popleft()
        return copy


def _allocate(size: int) -> torch.Tensor:
    """Return uint8[size] in memory that child processes share."""
    if multiprocessing.get_start_method() == "fork":
        return torch.frombuffer(mmap.mmap(-1, size), dtype=torch.uint8)  # the size of /dev/shm doesn't limit it
    return torch.empty(size, dtype=torch.uint8).share_memory_()


def _unpin(memory: torch.Tensor, copies: collections.deque[tuple[torch.cuda.Event, torch.Tensor]]) -> None:
    for event, _ in copies:
        event.synchronize()
    cuda: Any = torch.cuda.cudart()
    cuda.cudaHostUnregister(memory.data_ptr())
