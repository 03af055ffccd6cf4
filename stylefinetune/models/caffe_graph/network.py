"""A network of Caffe layers in any arrangement."""

import dataclasses

import torch
from torch import nn
from torch.func import functional_call

from shards.format import joined_lines
from stylefinetune.caffe.graph.read import Graph
from stylefinetune.caffe.graph.store import check_phases, has_weights, read_stored, settings_of
from stylefinetune.caffe.layers import Layer
from stylefinetune.errors import UserError, joined_sizes
from stylefinetune.models.caffe_graph.layers import Shape, build_layer
from stylefinetune.models.layer_names import module_name


@dataclasses.dataclass(frozen=True)
class _Step:
    """The call of one layer's module."""

    module: str
    bottoms: tuple[str, ...]
    top: str
    last_read: frozenset[str] = frozenset()  # bottoms that no later step reads


@dataclasses.dataclass(frozen=True)
class _Phase:
    """The steps of training or of testing."""

    pictures: str
    steps: list[_Step]
    scores: list[str]  # the blobs of the classes' scores, the main ones last


class CaffeGraph(nn.Module):
    """Network from [B, 3, H, W] float pictures to [B, num_classes] logits, as a stored prototxt describes it.

    In training, a network with auxiliary classifiers, or a loss_weight other than 1, returns [B, heads, num_classes],
    the main head last; `loss_weights` are the weights of their losses. Modules have the names of Caffe's layers (see
    layer_names), so that a .caffemodel can be copied by name. `input_size` is the (height, width) of the input in
    pixels.

    Raises:
        UserError: the prototxt is invalid, or does not fit the input or the classes.
    """

    loss_weights: tuple[float, ...] = (1.0,)

    def __init__(self, prototxt: str, num_classes: int, input_size: tuple[int, int], seed: int) -> None:
        super().__init__()
        train, test = (read_stored(prototxt, phase) for phase in ("TRAIN", "TEST"))
        generator = torch.Generator().manual_seed(seed)
        check_phases(train, test)
        layers: dict[str, Layer] = {}  # by module
        self._train_phase, self._test_phase = (
            self._build(graph, num_classes, input_size, generator, layers) for graph in (train, test)
        )
        self.loss_weights = tuple(one.weight for one in train.scores)

    def blob_modules(self) -> dict[str, str]:
        """Return the module that computes each blob of the test phase; the last one, if some work in place."""
        return {step.top: step.module for step in self._test_phase.steps}

    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        """Return the logits of the classes."""
        phase = self._train_phase if self.training else self._test_phase
        blobs = {phase.pictures: pictures}
        for step in phase.steps:
            output = getattr(self, step.module)(*(blobs[bottom] for bottom in step.bottoms))
            for bottom in step.last_read:
                del blobs[bottom]
            blobs[step.top] = output
        heads = [blobs[blob].flatten(1) for blob in phase.scores]
        is_plain = not self.training or self.loss_weights == (1.0,)
        return heads[0] if is_plain else torch.stack(heads, dim=1)

    def _build(
        self,
        graph: Graph,
        num_classes: int,
        input_size: tuple[int, int],
        generator: torch.Generator,
        layers: dict[str, Layer],
    ) -> _Phase:
        """Return the steps of a phase, after adding its modules that are not in `layers` yet, to both."""
        shapes: dict[str, Shape] = {graph.pictures: (3, *input_size)}
        steps: list[_Step] = []
        for layer in graph.layers:
            message = layer.message
            name = _module_name(layer, layers)
            bottoms = [shapes[bottom] for bottom in message.bottom]
            if name not in layers:
                if hasattr(self, name):
                    raise layer.place.error("the name is used by the program; rename the layer", "name")
                layers[name] = layer
                self.add_module(name, build_layer(layer, bottoms, generator))
            shapes[message.top[0]] = _output_shape(layer, getattr(self, name), bottoms)
            steps.append(_Step(name, tuple(message.bottom), message.top[0]))
        scores = [one.blob for one in graph.scores]
        for blob in scores:
            _check_outputs(graph, blob, torch.Size(shapes[blob]).numel(), num_classes)
        return _Phase(graph.pictures, _with_last_reads(steps, scores), scores)


def _module_name(layer: Layer, layers: dict[str, Layer]) -> str:
    """Return the name of a layer's module, which may be that of an equal layer of training."""
    name = module_name(layer.message.name)
    other = layers.get(name)
    if other is None or has_weights(layer) or settings_of(other) == settings_of(layer):
        return name
    return f"{name}%test"


def _output_shape(layer: Layer, module: nn.Module, shapes: list[Shape]) -> Shape:
    """Return the shape of a layer's output, by a call on the meta device, where nothing is computed.

    Raises:
        UserError: the layer can't have such an input.
    """
    tensors = {name: tensor.to("meta") for name, tensor in module.state_dict().items()}
    inputs = tuple(torch.empty(2, *shape, device="meta") for shape in shapes)
    training = module.training
    try:
        with torch.no_grad():
            output = functional_call(module.eval(), tensors, inputs)
    except (RuntimeError, ValueError, IndexError) as error:
        sizes = " and ".join(map(joined_sizes, shapes))
        raise layer.place.error(f"it can't have an input of {sizes} ({joined_lines(error)})") from error
    finally:
        module.train(training)
    if output.shape[0] != 2:
        raise layer.place.error("it changes the first axis, that of the pictures, which isn't supported")
    return tuple(output.shape[1:])


def _check_outputs(graph: Graph, blob: str, outputs: int, num_classes: int) -> None:
    if outputs != num_classes:
        classifier = graph.classifier.message.name
        raise UserError(
            f"the net's {blob} has {outputs} outputs, and there are {num_classes} classes; set num_output of the layer "
            f"that computes it ({classifier} for the main classifier) to {num_classes}, and rename it if the weights "
            "are of other classes"
        )


def _with_last_reads(steps: list[_Step], scores: list[str]) -> list[_Step]:
    """Return the steps with the bottoms that each is the last one to read."""
    live, found = set(scores), list[_Step]()
    for step in reversed(steps):
        live.discard(step.top)
        found.append(dataclasses.replace(step, last_read=frozenset(step.bottoms) - live))
        live.update(step.bottoms)
    return found[::-1]
