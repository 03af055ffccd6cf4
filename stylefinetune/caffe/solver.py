"""A Caffe solver.prototxt and its net -> the keys of a Config; the pictures of their lists -> shards."""

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
from stylefinetune.caffe.prototxt import ImageList, NetText, as_written, parse_text, read_net, refuse_unless_default
from stylefinetune.config.schema import Config
from stylefinetune.errors import UserError

# Read below; or about the machine and the file formats, which are not Caffe's here.
_READ = {
    *("net", "test_iter", "test_interval", "test_initialization", "base_lr", "display", "average_loss", "max_iter"),
    *("iter_size", "lr_policy", "gamma", "power", "momentum", "weight_decay", "stepsize", "stepvalue"),
    *("clip_gradients", "snapshot", "snapshot_prefix", "random_seed", "weights"),
}
_WITHOUT_EFFECT = {"solver_mode", "device_id", "snapshot_format", "test_compute_loss", "layer_wise_reduce"}


def read_solver(path: Path) -> dict[str, Any]:
    """Reads a solver.prototxt and the net that it names, whose paths are relative to the working directory.

    Returns:
        The keys of a Config that they set, nested. data.shards is empty: `with_shards` fills it.

    Raises:
        UserError: one can't be read, or asks for what isn't supported; the message names it.
    """
    solver = parse_text(path, "SolverParameter")
    refuse_unless_default(solver, str(path), free=_READ | _WITHOUT_EFFECT)
    for needed in ("net", "max_iter", "base_lr", "lr_policy"):
        if not solver.HasField(needed):
            raise UserError(f"{path}: it sets no {needed}")
    if len(solver.test_iter) > 1:
        raise UserError(f"{path}: test_iter is given {len(solver.test_iter)} times; one test net is supported")
    keys = _keys_of_net(read_net(Path(solver.net)), tests=bool(solver.test_interval and solver.test_iter))
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


def _keys_of_net(net: NetText, *, tests: bool) -> dict[str, Any]:
    keys: dict[str, Any] = {section: dict(values) for section, values in net.keys.items()}
    keys["data"]["shards"] = ""
    if not tests:
        keys["data"]["test"] = {"split": ""}
    return keys


def _optim(solver: Any) -> dict[str, Any]:  # noqa: ANN401 -- a message class made at run time
    optim: dict[str, Any] = {
        name: as_written(getattr(solver, name))
        for name in ("base_lr", "gamma", "power", "momentum", "weight_decay", "clip_gradients")
    }
    optim |= {"lr_policy": solver.lr_policy, "stepvalue": list(solver.stepvalue)}
    if solver.HasField("stepsize"):
        optim["stepsize"] = solver.stepsize
    return optim


@dataclasses.dataclass(frozen=True)
class SolverLists:
    """The pictures of a solver's net, and the shards that they become.

    Attributes:
        shards: the DIR, whose name follows from the lists' contents: a list that has changed is packed again.
        texts: each split's list, its root_folder put before each path.
        num_classes: outputs of the net's last layer.
    """

    shards: Path
    texts: dict[str, str]
    num_classes: int


def find_solver_lists(config: Config) -> SolverLists:
    """Finds the lists of `config.solver`.

    Raises:
        UserError: one can't be read.
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
    """Packs the lists' pictures, as they are, into shards; at once where they are packed already.

    Raises:
        UserError: a picture is missing or can't be kept, or a label has no output.
    """
    if (lists.shards / INDEX_FILE).is_file():
        return
    beside = lists.shards.with_name(f"{lists.shards.name}.lists")
    beside.mkdir(parents=True, exist_ok=True)
    (beside / "classes.txt").write_text("".join(f"{label}\n" for label in range(lists.num_classes)), encoding="utf-8")
    for split, text in lists.texts.items():
        (beside / f"{split}.txt").write_text(text, encoding="utf-8")
    sources = [f"{split}={beside / split}.txt" for split in lists.texts]
    settings = AssembleConfig(list=sources, out=lists.shards, classes=str(beside / "classes.txt"), workers=-1)
    try:
        assemble(settings, Console(stderr=True))
    except ShardsError as error:
        raise UserError(f"the net's pictures can't be packed: {error}") from error
    outcomes = pq.read_table(lists.shards / "outcomes.parquet", columns=["image_url", "status", "message"]).to_pylist()
    lost = next((outcome for outcome in outcomes if outcome["status"] != "kept"), None)
    if lost:
        shutil.rmtree(lists.shards)  # so that the list is packed whole once it has been mended
        reason = f"{lost['status']}: {lost['message']}"
        raise UserError(f"{lost['image_url']}, of the net's list, can't be used ({reason}); mend it or its list")
