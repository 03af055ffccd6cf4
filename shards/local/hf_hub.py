"""Downloads the Parquet files of a dataset from the Hugging Face hub."""

import concurrent.futures
import os
import re
from pathlib import Path
from typing import Any

import requests

from shards.errors import ShardsError, joined_lines
from shards.local.fetch import fetch_file
from shards.local.splits import split_of
from shards.location import cache_folder

_ENDPOINT = "https://huggingface.co"
_NAME = re.compile(r"([\w.-]+(?:/[\w.-]+)?)(?:/([\w.-]+))?")  # a dataset, and a configuration
_TIMEOUT = 60.0  # seconds
_DOWNLOADS = 4  # files at the same time


def fetch_dataset(name: str, split: str | None) -> Path:
    """Return a folder with the Parquet files of a dataset, or of one of its splits, as FOLDER/SPLIT/0.parquet.

    The hub converts every dataset to Parquet and lists the files. Files that were downloaded before are used again.
    The environment variables HF_ENDPOINT and HF_TOKEN have the meaning that they have for Hugging Face's libraries.

    Raises:
        ShardsError: there is no such dataset or split, or the hub can't be reached.
    """
    match = _NAME.fullmatch(name)
    if match is None:
        raise ShardsError(f"--list hf:{name}: neither a folder of Parquet files nor the name of a dataset, OWNER/NAME")
    dataset, wanted = match[1], match[2]
    token = os.environ.get("HF_TOKEN")
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    endpoint = os.environ.get("HF_ENDPOINT") or _ENDPOINT
    configs = _read_json(f"{endpoint.rstrip('/')}/api/datasets/{dataset}/parquet", headers, name)
    if wanted is None and len(configs) > 1 and "default" not in configs:
        raise ShardsError(
            f"--list hf:{name}: it has the configurations {_join(configs)}; give hf:{dataset}/CONFIGURATION"
        )
    config = wanted or ("default" if "default" in configs else next(iter(configs), ""))
    if not configs.get(config):
        raise ShardsError(f"--list hf:{name}: no configuration {config or 'with Parquet files'} among {_join(configs)}")
    splits: dict[str, list[str]] = configs[config]
    chosen = [each for each in splits if split is None or each == split or (split_of(each) or each) == split_of(split)]
    if not chosen:
        raise ShardsError(f"--list hf:{name}:{split}: it has the splits {_join(splits)}; choose one of them")
    folder = cache_folder() / "datasets" / dataset.replace("/", "--") / config
    missing = [
        (url, path)
        for each in chosen
        for number, url in enumerate(splits[each])
        if not (path := folder / each.removeprefix("partial-") / f"{number:05d}.parquet").is_file()
    ]
    with concurrent.futures.ThreadPoolExecutor(_DOWNLOADS) as pool:
        list(pool.map(lambda one: fetch_file(one[0], one[1], headers), missing))
    return folder


def _read_json(url: str, headers: dict[str, str], name: str) -> dict[str, Any]:
    try:
        response = requests.get(url, timeout=_TIMEOUT, headers=headers)
        response.raise_for_status()
        value = response.json()
    except (requests.RequestException, ValueError) as error:
        raise ShardsError(
            f"--list hf:{name}: {joined_lines(error)}; check the name and HF_TOKEN, or give a folder of its Parquet "
            "files, hf:FOLDER"
        ) from error
    return value if isinstance(value, dict) else {}


def _join(names: Any) -> str:  # noqa: ANN401 -- an iterable of names
    return ", ".join(map(str, names))[:200]
