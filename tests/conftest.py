"""What several tests share: the original Caffe's results, shards of drawn pictures, a training run."""

import contextlib
import dataclasses
import signal
import sys
from pathlib import Path

import pytest

from tests.loopback import LoopbackServer
from tests.programs import NARROW, ROOT, assemble, run

# A shell ignores these for what runs in its background, nohup does too, and so would all that is tested.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)


@pytest.fixture
def server():
    """A web server on this machine that answers as it is told to."""
    with LoopbackServer() as running:
        yield running


@pytest.fixture(scope="session")
def golden():
    """The folder of the original Caffe's results, a compact copy; its README says what lies where."""
    return ROOT / "tests" / "golden"


@dataclasses.dataclass(frozen=True)
class Drawn:
    """Drawn pictures of four styles as Caffe list files.

    Attributes:
        folder: holds the pictures, train.txt (41 pictures), test.txt (11) and classes.txt.
        lists: the flags that assemble them.
    """

    folder: Path

    @property
    def lists(self):
        lists = [f"--list={split}={self.folder / split}.txt" for split in ("train", "test")]
        return [*lists, f"--classes={self.folder / 'classes.txt'}"]


@pytest.fixture(scope="session")
def drawn(tmp_path_factory):
    from launch import sample
    from launch.pictures import STYLES, draw

    folder = tmp_path_factory.mktemp("drawn")
    names = list(STYLES)
    styles = [names.index(name) for name in ("Noir", "Hazy", "Bokeh", "Bright")]
    (folder / "classes.txt").write_text("".join(f"{names[style]}\n" for style in styles))
    for split, count, seed in (("train", 41, 0), ("test", 11, 1000)):
        lines = []
        for place in range(count):
            label = place % 4
            path = folder / f"{split}_{place:03d}.jpg"
            path.write_bytes(sample.encode(draw(styles[label], seed + place)))
            lines.append(f"{path} {label}\n")
        (folder / f"{split}.txt").write_text("".join(lines))
    return Drawn(folder)


@pytest.fixture(scope="session")
def pixel_shards(drawn, tmp_path_factory):
    """Shards of the drawn pictures as 48x48 pixels, several tars a split, and their mean."""
    out = tmp_path_factory.mktemp("pixels") / "DIR with a space"
    assemble(*drawn.lists, "--out", out, "--encode_format=pixels", "--image_size=48", "--rows_per_shard=20")
    done = run(sys.executable, "-m", "shards", "mean", out)
    assert done.returncode == 0, done.stderr
    return out


@pytest.fixture(scope="session")
def original_shards(drawn, pixel_shards, tmp_path_factory):
    """Shards of the drawn pictures as they are."""
    out = tmp_path_factory.mktemp("originals") / "DIR"
    assemble(*drawn.lists, "--out", out, "--encode_format=original", "--rows_per_shard=20")
    (out / "mean.npy").write_bytes((pixel_shards / "mean.npy").read_bytes())
    return out


@pytest.fixture(scope="session")
def trained(pixel_shards, tmp_path_factory):
    """A short run on one rank: 12 iterations, tested at 0, 4, 8 and 12, saved at 5, 10 and 12."""
    from stylefinetune.train import main

    run_dir = tmp_path_factory.mktemp("run") / "trained"
    schedule = ["--train.max_iter=12", "--train.test_interval=4", "--train.display=2", "--checkpoint.snapshot=5"]
    with contextlib.chdir(ROOT):
        main([*NARROW, *schedule, f"--data.shards={pixel_shards}", f"--run_dir={run_dir}"])
    return run_dir


@pytest.fixture(scope="session")
def micro(golden, tmp_path_factory):
    """The flags that train Caffe's micro net on its pictures, but for weights, rate and run folder."""
    out = tmp_path_factory.mktemp("micro") / "DIR"
    assemble("--list=train=train.txt", "--list=test=test.txt", f"--out={out}", cwd=golden / "micro")
    return [
        f"--data.shards={out}",
        "--data.image_size=80",
        "--data.crop_size=0",
        "--data.test.crop_size=75",
        "--data.mirror=false",
        f"--data.mean_file={golden / 'micro' / 'mean.binaryproto'}",
        "--data.batch_size=10",
        "--data.test.batch_size=10",
        "--data.workers=0",
        "--model.widths=[8,16,24,24,16,32,32]",
        "--model.dropout=0",
        "--optim.stepsize=20",
        "--train.max_iter=60",
        "--train.test_interval=20",
        "--train.test_iter=10",
        "--train.display=1",
        "--checkpoint.snapshot=20",
        "--tracking.wandb=disabled",
    ]
