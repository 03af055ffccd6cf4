from stylefinetune.caffe.graph.deploy import deploy_graph
from stylefinetune.caffe.graph.store import read_stored
from tests.stylefinetune.models.caffe_graph.published_nets import googlenet, residual


def test_the_output_has_a_name_of_its_own():
    text = residual().replace('top: "pool"', 'top: "prob"').replace('bottom: "pool"', 'bottom: "prob"')
    *_, last = deploy_graph(read_stored(text, "TEST"), "net", (16, 16)).layer
    assert (last.name, list(last.top)) == ("prob_", ["prob_"])


def test_a_deploy_net_has_an_input_the_test_layers_and_a_softmax():
    deploy = deploy_graph(read_stored(googlenet(), "TEST"), "GoogLeNet", (224, 220))
    first, *hidden, last = deploy.layer
    assert (first.type, list(first.top), list(first.input_param.shape[0].dim)) == ("Input", ["data"], [1, 3, 224, 220])
    assert (last.type, list(last.bottom), list(last.top)) == ("Softmax", ["loss3/classifier"], ["prob"])
    assert deploy.name == "GoogLeNet"
    assert not [layer.name for layer in hidden if layer.name.startswith(("loss1", "loss2"))]
    assert not any(layer.param or layer.include for layer in hidden)
    assert hidden[0].convolution_param.num_output == 64
