"""Reads variants of the narrow net that Caffe ran."""

from stylefinetune.caffe.net import convert_nets, read_net
from tests.programs import ROOT

NET = (ROOT / "tests" / "golden" / "micro" / "train_val.prototxt").read_text()


def convert(folder, text, test=None):
    """Convert the net in `text`, written to a file in `folder`; `test` is the test net if it has a separate file."""
    files = []
    for name, content in (("net.prototxt", text), ("test.prototxt", test)):
        if content is not None:
            (folder / name).write_text(content)
            files.append(read_net(folder / name))
    return convert_nets(files[0], files[-1])


def replaced(*pairs, text=NET):
    """Return the net with the first occurrence of each old text replaced by the new one."""
    for old, new in pairs:
        assert old in text, old
        text = text.replace(old, new, 1)
    return text
