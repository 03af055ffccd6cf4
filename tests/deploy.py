"""Deploy prototxts of Caffe's micro net in tests/golden."""

import re

INPUT = 'layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 1 dim: 3 dim: 75 dim: 75 } } }'
SOFTMAX = 'layer { name: "prob" type: "Softmax" bottom: "fc8_flickr" top: "prob" }'


def deploy_text(golden, *, input_=INPUT, end=SOFTMAX, change=lambda text: text):
    """Return the net that Caffe trained, with an input instead of data layers, and `end` instead of the loss."""
    text = (golden / "micro" / "train_val.prototxt").read_text()
    middle = text[text.index('layer {\n  name: "conv1"') : text.index('layer { name: "accuracy"')]
    assert not re.search("ImageData|SoftmaxWithLoss", middle)
    return change(f'name: "MicroFlickrStyle"\n{input_}\n{middle}\n{end}\n')


def one_dropout(text):
    """Return the net with another structure than CaffeNet's, which computes the same."""
    fc8 = 'layer {\n  name: "fc8_flickr"'
    return text.replace(fc8, f'layer {{ name: "drop" type: "Dropout" bottom: "fc7" top: "fc7" }}\n{fc8}')
