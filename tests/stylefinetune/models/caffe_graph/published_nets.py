"""Published nets beyond CaffeNet, in Caffe's prototxt, with the layer names of their authors."""

DATA = """layer { name: "data" type: "ImageData" top: "data" top: "label" include { phase: TRAIN }
  transform_param { crop_size: %(crop)d mirror: true mean_value: 104 mean_value: 117 mean_value: 123 }
  image_data_param { source: "train.txt" batch_size: 8 new_height: %(side)d new_width: %(side)d } }
layer { name: "data" type: "ImageData" top: "data" top: "label" include { phase: TEST }
  transform_param { crop_size: %(crop)d mean_value: 104 mean_value: 117 mean_value: 123 }
  image_data_param { source: "test.txt" batch_size: 8 new_height: %(side)d new_width: %(side)d } }
"""
INPUTS = 'input: "data" input: "label"\n'  # of a stored net


class Net:
    """Adds layers after one another; `top` is the current blob."""

    def __init__(self, head=INPUTS):
        self.text, self.top = head, "data"

    def add(self, kind, name, parameters="", bottoms=None, in_place=False):
        bottoms = bottoms or [self.top]
        self.top = bottoms[0] if in_place else name
        shown = " ".join(f'bottom: "{bottom}"' for bottom in bottoms)
        self.text += f'layer {{ name: "{name}" type: "{kind}" {shown} top: "{self.top}" {parameters} }}\n'
        return self.top

    def conv(self, name, outputs, kernel, bottom=None, relu=True, **settings):
        sizes = " ".join(f"{key}: {value}" for key, value in settings.items())
        fillers = 'weight_filler { type: "xavier" } bias_filler { type: "constant" value: 0.2 }'
        parameters = f"num_output: {outputs} kernel_size: {kernel} {sizes} {fillers}"
        params = "param { lr_mult: 1 decay_mult: 1 } param { lr_mult: 2 decay_mult: 0 }"
        bottoms = [bottom] if bottom else None
        self.add("Convolution", name, f"{params} convolution_param {{ {parameters} }}", bottoms)
        return self.relu(name) if relu else self.top

    def fc(self, name, outputs, bottom=None):
        filler = 'weight_filler { type: "gaussian" std: 0.01 }'
        return self.add(
            "InnerProduct", name, f"inner_product_param {{ num_output: {outputs} {filler} }}", [bottom or self.top]
        )

    def relu(self, name):
        return self.add("ReLU", f"relu_{name}", in_place=True)

    def pool(self, name, method, kernel, stride, bottom=None, **settings):
        sizes = " ".join(f"{key}: {value}" for key, value in settings.items())
        parameters = f"pooling_param {{ pool: {method} kernel_size: {kernel} stride: {stride} {sizes} }}"
        return self.add("Pooling", name, parameters, [bottom or self.top])

    def global_pool(self, name):
        return self.add("Pooling", name, "pooling_param { pool: AVE global_pooling: true }")

    def lrn(self, name):
        return self.add("LRN", name, "lrn_param { local_size: 5 alpha: 0.0001 beta: 0.75 }")

    def drop(self, name, ratio=0.5):
        return self.add("Dropout", name, f"dropout_param {{ dropout_ratio: {ratio} }}", in_place=True)

    def loss(self, name, weight=1, scores=None):
        scores = scores or self.top
        bottoms = f'bottom: "{scores}" bottom: "label"'
        self.text += (
            f'layer {{ name: "{name}" type: "SoftmaxWithLoss" {bottoms} top: "{name}" loss_weight: {weight} }}\n'
        )
        for top_k in (1, 5):
            include = f"include {{ phase: TEST }} accuracy_param {{ top_k: {top_k} }}"
            label = f"{name}/top-{top_k}"
            self.text += f'layer {{ name: "{label}" type: "Accuracy" {bottoms} top: "{label}" {include} }}\n'
        self.top = scores
        return self.text


def alexnet(classes=1000, head=INPUTS):
    """Krizhevsky et al., 2012, as in models/bvlc_alexnet: normalization before pooling."""
    net = Net(head)
    net.conv("conv1", 96, 11, stride=4)
    net.lrn("norm1")
    net.pool("pool1", "MAX", 3, 2)
    net.conv("conv2", 256, 5, pad=2, group=2)
    net.lrn("norm2")
    net.pool("pool2", "MAX", 3, 2)
    net.conv("conv3", 384, 3, pad=1)
    net.conv("conv4", 384, 3, pad=1, group=2)
    net.conv("conv5", 256, 3, pad=1, group=2)
    net.pool("pool5", "MAX", 3, 2)
    for number in (6, 7):
        net.fc(f"fc{number}", 4096)
        net.relu(f"fc{number}")
        net.drop(f"drop{number}")
    net.fc("fc8", classes)
    return net.loss("loss")


def vgg16(classes=1000, head=INPUTS, width=64, hidden=4096):
    """Simonyan and Zisserman, 2014."""
    net = Net(head)
    for block, (outputs, layers) in enumerate([(1, 2), (2, 2), (4, 3), (8, 3), (8, 3)], start=1):
        for layer in range(1, layers + 1):
            net.conv(f"conv{block}_{layer}", width * outputs, 3, pad=1)
        net.pool(f"pool{block}", "MAX", 2, 2)
    for number in (6, 7):
        net.fc(f"fc{number}", hidden)
        net.relu(f"fc{number}")
        net.drop(f"drop{number}")
    net.fc("fc8", classes)
    return net.loss("loss")


_INCEPTION = {  # 1x1, 3x3 after its reduction, 5x5 after its reduction, 1x1 after pooling
    "3a": (64, 96, 128, 16, 32, 32),
    "3b": (128, 128, 192, 32, 96, 64),
    "4a": (192, 96, 208, 16, 48, 64),
    "4b": (160, 112, 224, 24, 64, 64),
    "4c": (128, 128, 256, 24, 64, 64),
    "4d": (112, 144, 288, 32, 64, 64),
    "4e": (256, 160, 320, 32, 128, 128),
    "5a": (256, 160, 320, 32, 128, 128),
    "5b": (384, 192, 384, 48, 128, 128),
}


def googlenet(classes=1000, head=INPUTS, share=1.0):
    """Szegedy et al., 2014, as in models/bvlc_googlenet; of each layer a `share` of the outputs."""
    net = Net(head)

    def conv(name, outputs, kernel, bottom=None, **settings):
        return net.conv(name, max(4, int(outputs * share)), kernel, bottom, **settings)

    def auxiliary(number):
        start, prefix = net.top, f"loss{number}"
        net.pool(f"{prefix}/ave_pool", "AVE", 5, 3)
        conv(f"{prefix}/conv", 128, 1)
        net.fc(f"{prefix}/fc", max(8, int(1024 * share)))
        net.relu(f"{prefix}/fc")
        net.drop(f"{prefix}/drop_fc", 0.7)
        net.fc(f"{prefix}/classifier", classes)
        net.loss(f"{prefix}/loss", 0.3)
        net.top = start

    conv("conv1/7x7_s2", 64, 7, pad=3, stride=2)
    net.pool("pool1/3x3_s2", "MAX", 3, 2)
    net.lrn("pool1/norm1")
    conv("conv2/3x3_reduce", 64, 1)
    conv("conv2/3x3", 192, 3, pad=1)
    net.lrn("conv2/norm2")
    net.pool("pool2/3x3_s2", "MAX", 3, 2)
    for name, (one, reduce3, three, reduce5, five, pooled) in _INCEPTION.items():
        bottom, prefix = net.top, f"inception_{name}"
        parts = [conv(f"{prefix}/1x1", one, 1, bottom)]
        conv(f"{prefix}/3x3_reduce", reduce3, 1, bottom)
        parts.append(conv(f"{prefix}/3x3", three, 3, pad=1))
        conv(f"{prefix}/5x5_reduce", reduce5, 1, bottom)
        parts.append(conv(f"{prefix}/5x5", five, 5, pad=2))
        net.pool(f"{prefix}/pool", "MAX", 3, 1, bottom, pad=1)
        parts.append(conv(f"{prefix}/pool_proj", pooled, 1))
        net.add("Concat", f"{prefix}/output", bottoms=parts)
        if name in ("3b", "4e"):
            net.pool(f"pool{name[0]}/3x3_s2", "MAX", 3, 2)
        if name in ("4a", "4d"):
            auxiliary(1 if name == "4a" else 2)
    net.global_pool("pool5/7x7_s1")
    net.drop("pool5/drop_7x7_s1", 0.4)
    net.fc("loss3/classifier", classes)
    return net.loss("loss3/loss3")


def nin(classes=1000, head=INPUTS):
    """Network in Network for ImageNet, Lin et al., 2013."""
    net = Net(head)
    sizes = {1: (96, 11, {"stride": 4}), 2: (256, 5, {"pad": 2}), 3: (384, 3, {"pad": 1}), 4: (1024, 3, {"pad": 1})}
    for block, (outputs, kernel, settings) in sizes.items():
        net.conv(f"conv{block}", outputs, kernel, **settings)
        net.conv(f"cccp{2 * block - 1}", outputs, 1)
        net.conv(f"cccp{2 * block}", classes if block == 4 else outputs, 1)
        if block < 4:
            net.pool(f"pool{block}", "MAX", 3, 2)
        if block == 3:
            net.drop("drop")
    net.global_pool("pool4")
    return net.loss("loss")


def squeezenet(classes=1000, head=INPUTS):
    """SqueezeNet 1.1, Iandola et al., 2016."""
    net = Net(head)
    net.conv("conv1", 64, 3, stride=2)
    net.pool("pool1", "MAX", 3, 2)
    for number, (squeezed, expanded) in enumerate([(16, 64)] * 2 + [(32, 128)] * 2 + [(48, 192)] * 2 + [(64, 256)] * 2):
        name = f"fire{number + 2}"
        squeeze = net.conv(f"{name}/squeeze1x1", squeezed, 1)
        parts = [net.conv(f"{name}/expand1x1", expanded, 1, squeeze)]
        parts.append(net.conv(f"{name}/expand3x3", expanded, 3, squeeze, pad=1))
        net.add("Concat", f"{name}/concat", bottoms=parts)
        if number in (1, 3):
            net.pool(f"pool{number + 2}", "MAX", 3, 2)
    net.drop("drop9")
    net.conv("conv10", classes, 1)
    net.global_pool("pool10")
    return net.loss("loss")


def residual(classes=10, head=INPUTS):
    """A small residual net with batch normalization, as ResNet's authors wrote it for Caffe."""
    net = Net(head)

    def normalized(name, outputs, kernel, relu=True, **settings):
        net.conv(name, outputs, kernel, relu=False, **settings)
        net.add("BatchNorm", f"bn_{name}", in_place=True)
        net.add("Scale", f"scale_{name}", "scale_param { bias_term: true }", in_place=True)
        return net.relu(name) if relu else net.top

    start = normalized("conv1", 8, 3, pad=1, stride=2)
    normalized("res_a", 8, 3, pad=1)
    end = normalized("res_b", 8, 3, relu=False, pad=1)
    net.add("Eltwise", "res", bottoms=[start, end])
    net.relu("res")
    net.global_pool("pool")
    net.fc("classifier", classes)
    return net.loss("loss")
