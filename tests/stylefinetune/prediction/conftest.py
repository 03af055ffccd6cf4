import dataclasses
from pathlib import Path

import pytest
import torch

from stylefinetune.checkpoint.checkpoint import Checkpoint, read_checkpoint
from stylefinetune.distributed.world import World
from stylefinetune.prediction.network import PictureNetwork
from tests import drawn_checkpoints, odd_pictures


@dataclasses.dataclass(frozen=True)
class Album:
    """Five pictures in a folder and its sub-folder, and files that are none.

    Attributes:
        folder: has them.
        names: the pictures, relative to it, sorted as they are walked.
    """

    folder: Path
    names: tuple[str, ...]

    def paths(self):
        return [str(self.folder / name) for name in self.names]


@pytest.fixture(scope="session")
def album(tmp_path_factory):
    folder = tmp_path_factory.mktemp("album")
    names = ("a.jpg", "b.png", "c.tif", "inner/d.jpg", "inner/e.webp")
    for number, name in enumerate(names):
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(odd_pictures.encode(path.suffix, odd_pictures.smooth(number)))
    (folder / "notes.txt").write_text("no picture")
    (folder / ".hidden.jpg").write_bytes(b"")
    return Album(folder, names)


@pytest.fixture(scope="session")
def saved(tmp_path_factory) -> Checkpoint:
    _, path = drawn_checkpoints.save(tmp_path_factory.mktemp("run"))
    return read_checkpoint(path)


@pytest.fixture
def network(saved) -> PictureNetwork:
    return PictureNetwork(saved, torch.device("cpu"))


@pytest.fixture(scope="session")
def world():
    return World.alone()
