"""Checks shards, object stores and config files."""

from pathlib import Path

from shards.format import ObjectStore, ShardsError, counted, object_store_url
from shards.format.index import ShardIndex
from stylefinetune.config.cli import parse_config
from stylefinetune.data.dataset import open_split
from stylefinetune.doctor.finding import Finding
from stylefinetune.errors import UserError

_INDEX = "index.parquet"


def check_shards(shards: str) -> Finding:
    """Check that a folder's index can be read and its tars are complete; or that a store can be read."""
    url = object_store_url(Path(shards))
    return _check_store(url) if url else _check_folder(Path(shards))


def _check_folder(folder: Path) -> Finding:
    name = "shards"
    try:
        index = ShardIndex.load(folder)
        counts = {split: len(open_split(index, split)) for split in index.splits}
    except (ShardsError, UserError) as error:
        return Finding(name, "failed", str(error))
    if not counts:
        return Finding(name, "failed", f"{folder} has no pictures", f"see why: shards report {folder}")
    sizes = ", ".join(f"{count:,} {split}" for split, count in counts.items())
    classes = counted(len(index.metadata.classes), "class")
    return Finding(name, "ok", f"{folder}: {sizes} pictures, {classes}; shards verify reads them all")


def _check_store(url: str) -> Finding:
    """Check the library, the endpoint, the credentials and the index of shards in an object store."""
    name = "object store"
    try:
        found = ObjectStore(url, "check the endpoint and the credentials").find_object(_INDEX, is_retried=False)
    except ShardsError as error:
        found_text, _, remedy = str(error).rpartition("; ")
        return Finding(name, "failed", found_text or str(error), remedy if found_text else "")
    if found is None:
        return Finding(name, "failed", f"{url} has no {_INDEX}", "check the bucket and the folder's name")
    return Finding(name, "ok", f"{url}: {_INDEX} of {found.size / 1e6:,.1f} MB")


def check_config(path: Path) -> Finding:
    """Check the keys and values of a file of settings."""
    name = "config"
    try:
        config = parse_config(["--config", str(path)])
    except UserError as error:
        return Finding(name, "failed", str(error))
    found = f"{path}: {config.model.arch} on {config.data.shards}"
    return Finding(
        name, "ok", f"{found}; stylefinetune check --config {path} also checks the shards, the network and the weights"
    )
