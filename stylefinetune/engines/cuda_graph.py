"""Runs the forward and backward pass of an iteration as one CUDA graph, instead of launching hundreds of kernels.

The update is outside the graph, so that the graph does not depend on the learning rate, and is captured only once.
"""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import TypeAlias

import torch

from stylefinetune.data.dataset import Batch

WARM_UP = 3  # iterations in which cuDNN and cuBLAS choose algorithms and allocate workspaces, and Triton compiles

Accumulate: TypeAlias = Callable[[Sequence[Batch]], torch.Tensor]
Replay: TypeAlias = Callable[[], None]
Capture: TypeAlias = Callable[[Callable[[], torch.Tensor]], tuple[torch.Tensor, Replay]]


def capture_graph(function: Callable[[], torch.Tensor]) -> tuple[torch.Tensor, Replay]:
    """Record what `function` does on the GPU, without doing it.

    PyTorch registers the default generator with the graph: each replay draws dropout with the generator's seed of that
    moment, as `function` would.

    Returns:
        The output, which each replay overwrites, and a function that replays.
    """
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, capture_error_mode="thread_local"):  # other threads, such as a loader's, may use CUDA
        output = function()
    return output, graph.replay


class GraphedAccumulation:
    """Does the same as `accumulate`, by replaying a graph of it.

    The first WARM_UP calls are not graphed, and neither are micro-batches of another shape than those of the first
    call.

    Args:
        accumulate: adds the gradients of micro-batches to those of `parameters`, and returns the loss, a scalar on the
            device. The gradients are None before.
        parameters: all tensors that get a gradient.
        capture: see `capture_graph`.
    """

    def __init__(
        self, accumulate: Accumulate, parameters: Sequence[torch.Tensor], capture: Capture = capture_graph
    ) -> None:
        self._accumulate = accumulate
        self._parameters = parameters
        self._capture = capture
        self._shape: object = None
        self._warm_up = WARM_UP
        self._graph: _Graph | None = None

    def __call__(self, micro_batches: Sequence[Batch]) -> torch.Tensor:
        """See `accumulate`."""
        shape = _shape_of(micro_batches)
        self._shape = self._shape or shape
        if shape != self._shape or self._warm_up:
            self._warm_up = max(0, self._warm_up - 1)
            return self._accumulate(micro_batches)
        if self._graph is None:
            self._graph = self._record(micro_batches)
        for static, new in zip(_tensors_of(self._graph.inputs), _tensors_of(micro_batches), strict=True):
            static.copy_(new, non_blocking=True)
        self._graph.replay()
        for parameter, gradient in zip(self._parameters, self._graph.gradients, strict=True):
            parameter.grad = gradient
        return self._graph.loss.clone()

    def _record(self, micro_batches: Sequence[Batch]) -> "_Graph":
        device = self._parameters[0].device
        inputs = [_static_like(batch, device) for batch in micro_batches]
        loss, replay = self._capture(lambda: self._accumulate(inputs))
        gradients = [parameter.grad for parameter in self._parameters]
        return _Graph(inputs, loss, [gradient for gradient in gradients if gradient is not None], replay)


@dataclasses.dataclass(frozen=True)
class _Graph:
    """A captured graph and the memory that it reads and writes."""

    inputs: list[Batch]
    loss: torch.Tensor
    gradients: list[torch.Tensor]  # of the parameters
    replay: Replay


def _shape_of(micro_batches: Sequence[Batch]) -> tuple[object, ...]:
    """Return all that a graph of these micro-batches depends on, apart from the values of `_tensors_of` them."""
    return tuple(
        (batch.pictures.shape, len(batch.labels), batch.crops.size, batch.size, _resident_address(batch))
        for batch in micro_batches
    )


def _resident_address(batch: Batch) -> int | None:
    return None if batch.crops.rows is None else batch.pictures.data_ptr()


def _tensors_of(micro_batches: Sequence[Batch]) -> Iterator[torch.Tensor]:
    """Yield the tensors that differ from one iteration to the next."""
    for batch in micro_batches:
        crops = batch.crops
        yield from (batch.labels, crops.top, crops.left, crops.mirror)
        yield batch.pictures if crops.rows is None else crops.rows


def _static_like(batch: Batch, device: torch.device) -> Batch:
    """Return a batch with memory for other batches of its shape; pictures that are chosen by row are shared."""
    crops = batch.crops.to(device)
    rows = None if crops.rows is None else crops.rows.clone()
    return dataclasses.replace(
        batch,
        pictures=batch.pictures.to(device, copy=True) if rows is None else batch.pictures,
        labels=batch.labels.to(device, copy=True),
        crops=dataclasses.replace(
            crops, top=crops.top.clone(), left=crops.left.clone(), mirror=crops.mirror.clone(), rows=rows
        ),
    )
