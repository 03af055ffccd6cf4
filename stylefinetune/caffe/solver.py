"""Converts a Caffe solver.prototxt and its net to a Config, and packs the pictures of their lists into shards."""

import dataclasses
import hashlib
import shutil
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from rich.console import Console

from shards.assembly.assemble import assemble
from shards.config.schema import AssembleConfig
from shards.format import ShardsError
from shards.format.index import INDEX_FILE
from stylefinetune.caffe.prototxt import ImageList, check_defaults, parse_text, read_net, round_float32
from stylefinetune.config.schema import Config
from stylefinetune.errors import UserError

# Read below, or without effect here.
_READ = {
    *("net", "test_iter", "test_interval", "test_initialization", "base_lr", "display", "average_loss", "max_iter"),
    *("iter_size", "lr_policy", "gamma", "power", "momentum", "weight_decay", "stepsize", "stepvalue"),
    *("clip_gradients", "snapshot", "snapshot_prefix", "random_seed", "weights"),
}
_WITHOUT_EFFECT = {"solver_mode", "device_id", "snapshot_format", "test_compute_loss", "layer_wise_reduce"}


def read_solver(path: Path) -> dict[str, Any]:
    """Read a solver.prototxt and its net; paths in them are relative to the working directory.

    Returns:
        The nested keys of a Config. data.shards is empty; `find_solver_lists` returns the folder.

    Raises:
        UserError: a file can't be read, or a setting is not supported; the message names it.
    """
    solver = parse_text(path, "SolverParameter")
    check_defaults(solver, str(path), free=_READ | _WITHOUT_EFFECT)
    for needed in ("net", "max_iter", "base_lr", "lr_policy"):
        if not solver.HasField(needed):
            raise UserError(f"{path}: {needed} is missing")
    if len(solver.test_iter) > 1:
        raise UserError(f"{path}: test_iter is set {len(solver.test_iter)} times; only one test net is supported")
    keys: dict[str, Any] = dict(read_net(Path(solver.net)).keys)
    keys["data"]["shards"] = ""
    if not (solver.test_interval and solver.test_iter):
        keys["data"]["test"] = {"split": ""}
    keys["optim"] |= _optim(solver)
    keys["train"] = {
        "max_iter": solver.max_iter,
        "iter_size": solver.iter_size,
        "test_interval": solver.test_interval,
        "test_iter": solver.test_iter[0] if solver.test_iter else 0,
        "test_initialization": solver.test_initialization,
        "display": solver.display,
        "average_loss": solver.average_loss,
    }
    if solver.random_seed >= 0:
        keys["train"]["seed"] = solver.random_seed
    keys["checkpoint"] = {"snapshot": solver.snapshot}
    keys["solver"] = str(path)
    keys["run_dir"] = solver.snapshot_prefix or path.stem
    if solver.weights:
        keys["weights"] = ",".join(solver.weights)
    return keys


def _optim(solver: Any) -> dict[str, Any]:  # noqa: ANN401 -- a message class made at run time
    optim: dict[str, Any] = {
        name: round_float32(getattr(solver, name))
        for name in ("base_lr", "gamma", "power", "momentum", "weight_decay", "clip_gradients")
    }
    optim |= {"lr_policy": solver.lr_policy, "stepvalue": list(solver.stepvalue)}
    if solver.HasField("stepsize"):
        optim["stepsize"] = solver.stepsize
    return optim


@dataclasses.dataclass(frozen=True)
class SolverLists:
    """The list files of a solver's net, and the folder of their shards."""

    shards: Path  # its name is a hash of the lists, so a changed list is packed again
    texts: dict[str, str]  # content of each split's list, with root_folder before each path
    num_classes: int  # outputs of the net's last layer


def find_solver_lists(config: Config) -> SolverLists:
    """Read the lists of `config.solver`.

    Raises:
        UserError: a file can't be read.
    """
    assert config.solver is not None
    net = read_net(Path(parse_text(Path(config.solver), "SolverParameter").net))
    sources = {config.data.split: net.train}
    if config.data.test.split and net.test:
        sources[config.data.test.split] = net.test
    texts = {split: _read_list(source) for split, source in sources.items()}
    digest = hashlib.sha256(repr((sorted(texts.items()), net.num_classes)).encode()).hexdigest()
    return SolverLists(Path(config.run_dir) / "shards" / digest[:16], texts, net.num_classes)


def _read_list(pictures: ImageList) -> str:
    try:
        lines = Path(pictures.source).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{pictures.source}: the net's list can't be read: {error}") from error
    return "".join(f"{pictures.root_folder}{line.strip()}\n" for line in lines if line.strip())


def pack_solver_lists(lists: SolverLists) -> None:
    """Pack the original pictures of the lists into shards, unless that is done already.

    Raises:
        UserError: a picture is missing or invalid, or a label is outside the classes.
    """
    if (lists.shards / INDEX_FILE).is_file():
        return
    folder = lists.shards.with_name(f"{lists.shards.name}.lists")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "classes.txt").write_text("".join(f"{label}\n" for label in range(lists.num_classes)), encoding="utf-8")
    for split, text in lists.texts.items():
        (folder / f"{split}.txt").write_text(text, encoding="utf-8")
    sources = [f"{split}={folder / split}.txt" for split in lists.texts]
    settings = AssembleConfig(list=sources, out=lists.shards, classes=str(folder / "classes.txt"), workers=-1)
    try:
        assemble(settings, Console(stderr=True))
    except ShardsError as error:
        raise UserError(f"the net's pictures can't be packed: {error}") from error
    outcomes = pq.read_table(lists.shards / "outcomes.parquet", columns=["image_url", "status", "message"]).to_pylist()
    failed = next((outcome for outcome in outcomes if outcome["status"] != "kept"), None)
    if failed:
        shutil.rmtree(lists.shards)  # the next start packs all pictures again
        reason = f"{failed['status']}: {failed['message']}"
        raise UserError(f"{failed['image_url']}, of the net's list, can't be used ({reason}); fix it or the list")
