"""Describes a net of any structure as Caffe's deploy prototxt."""

from typing import Any

from stylefinetune.caffe.graph.read import Graph
from stylefinetune.caffe.schema import message_class

INPUT, OUTPUT = "data", "prob"


def deploy_graph(graph: Graph, name: str, input_size: tuple[int, int], output: str = "Softmax") -> Any:  # noqa: ANN401 -- see message_class
    """Return a NetParameter, called `name`, that computes class probabilities with the test phase of a net.

    Its input is one picture of `input_size`, (height, width) in pixels. `output` is the type of its last layer.
    """
    deploy = message_class("NetParameter")(name=name)
    names = {name for layer in graph.layers for name in (layer.message.name, *layer.message.top)}
    first, last = (f"{one}_" if one in names else one for one in (INPUT, OUTPUT))
    data = deploy.layer.add(name=first, type="Input", top=[graph.pictures])
    data.input_param.shape.add(dim=[1, 3, *input_size])
    for layer in graph.layers:
        message = deploy.layer.add()
        message.CopyFrom(layer.message)
        for field in ("include", "exclude", "param", "propagate_down"):
            message.ClearField(field)
    deploy.layer.add(name=last, type=output, bottom=[graph.scores[-1].blob], top=[last])
    return deploy
