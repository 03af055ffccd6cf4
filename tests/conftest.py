"""Fixtures of several packages' tests: the original Caffe's results, shards of drawn pictures, a training run."""

import contextlib
import dataclasses
import itertools
import json
import os
import shutil
import signal
from pathlib import Path

import pytest

from tests.loopback import LoopbackServer
from tests.programs import NARROW, ROOT, assemble, python

# One thread for each process of a test, since tests run side by side (pytest -n). torch reads this when it is imported.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Temporary folders are in memory, if there is enough: checkpoints and shards are fsynced, which takes a hundred times
# as long on a disk.
MEMORY, ENOUGH = Path("/dev/shm"), 8 * 2**30
if MEMORY.is_dir() and os.access(MEMORY, os.W_OK) and shutil.disk_usage(MEMORY).free > ENOUGH:
    os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", str(MEMORY))
# A shell ignores these signals for a background process, and nohup ignores SIGHUP; the tested programs inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)


@pytest.hookimpl(tryfirst=True)  # before pytest-xdist reads the marks
def pytest_collection_modifyitems(items):
    """Keep a file's tests in one process under pytest-xdist's `--dist loadgroup`, so that it builds fixtures once."""
    for item in items:
        if item.get_closest_marker("xdist_group") is None:
            item.add_marker(pytest.mark.xdist_group(item.location[0]))


@pytest.fixture
def server():
    """A web server on this machine whose answers a test sets."""
    with LoopbackServer() as running:
        yield running


@pytest.fixture(scope="session")
def golden():
    """The folder with a compact copy of the original Caffe's results; its README describes the files."""
    return ROOT / "tests" / "golden"


@dataclasses.dataclass(frozen=True)
class Drawn:
    """Drawn pictures of four styles as Caffe list files.

    Attributes:
        folder: has the pictures, train.txt (41 pictures), test.txt (11) and classes.txt.
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
        for number in range(count):
            label = number % 4
            path = folder / f"{split}_{number:03d}.jpg"
            path.write_bytes(sample.encode(draw(styles[label], seed + number)))
            lines.append(f"{path} {label}\n")
        (folder / f"{split}.txt").write_text("".join(lines))
    return Drawn(folder)


@pytest.fixture(scope="session")
def pixel_shards(drawn, tmp_path_factory):
    """Shards of the drawn pictures as 48x48 pixels, several tars a split, and their mean."""
    out = tmp_path_factory.mktemp("pixels") / "DIR with a space"
    assemble(*drawn.lists, "--out", out, "--encode_format=pixels", "--image_size=48", "--rows_per_shard=20")
    done = python("-m", "shards", "mean", out)
    assert done.returncode == 0, done.stderr
    return out


@pytest.fixture(scope="session")
def label_shards(drawn, tmp_path_factory):
    """Shards of the drawn pictures with one to three labels each, as 48x48 pixels, and their mean."""
    folder = tmp_path_factory.mktemp("labels")
    lines = []
    for split in ("train", "test"):
        for line in (drawn.folder / f"{split}.txt").read_text().splitlines():
            path, _, label = line.rpartition(" ")
            labels = [["noir", "dark"], ["hazy", "soft"], ["bokeh", "dark", "soft"], ["bright"]][int(label)]
            lines.append(json.dumps({"image_url": path, "label": labels, "split": split}))
    (folder / "list.jsonl").write_text("\n".join(lines))
    out = folder / "DIR"
    flags = ["--encode_format=pixels", "--image_size=48", "--rows_per_shard=20", "--workers=1"]
    assemble("--list", folder / "list.jsonl", "--local", "--out", out, *flags)
    done = python("-m", "shards", "mean", out)
    assert done.returncode == 0, done.stderr
    return out


@pytest.fixture(scope="session")
def original_shards(drawn, pixel_shards, tmp_path_factory):
    """Shards of the drawn pictures in their original encoding."""
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
    """The flags that train Caffe's micro net on its pictures, except weights, rate and run folder."""
    out = tmp_path_factory.mktemp("micro") / "DIR"
    assemble("--list=train=train.txt", "--list=test=test.txt", f"--out={out}", cwd=golden / "micro")
    return [
        f"--data.shards={out}",
        "--data.image_size=80",
        "--data.crop_size=0",
        "--data.test.crop_size=75",
        "--data.mirror=false",
        "--data.shuffle=false",
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


@pytest.fixture(scope="session")
def s3_endpoint():
    """The URL of a local S3 server."""
    from tests.stores import s3_server

    with s3_server() as url:
        yield url


_NUMBERS = itertools.count()


@pytest.fixture
def bucket(s3_endpoint, monkeypatch, tmp_path):
    """The URL of a new bucket, with server and credentials in the environment and stages in tmp_path/cache."""
    from tests.stores import CREDENTIALS, client

    for name, value in CREDENTIALS.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3_endpoint)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    name = f"bucket-{next(_NUMBERS)}"
    client().create_bucket(Bucket=name)
    return f"s3://{name}"


@pytest.fixture
def memory(monkeypatch, tmp_path):
    """The URL of a store in memory, with stages in tmp_path/cache."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return f"memory://store-{next(_NUMBERS)}"
