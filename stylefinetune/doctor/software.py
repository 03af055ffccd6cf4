"""Checks versions, and that aria2c is there."""

import sys
from importlib.metadata import PackageNotFoundError, requires, version

import torch
from packaging.requirements import Requirement

from shards.download.aria2_daemon import find_aria2c
from shards.format import ShardsError
from stylefinetune.doctor.finding import Finding


def check_python(found: tuple[int, ...] = sys.version_info[:3]) -> Finding:
    """Check the version of Python."""
    text = ".".join(map(str, found))
    if found < (3, 11):
        return Finding("Python", "failed", text, "3.11 or newer is needed")
    return Finding("Python", "ok", text)


def check_packages(package: str = "stylefinetune") -> Finding:
    """Check that the packages which are always needed have versions that pyproject.toml allows."""
    wrong: list[str] = []
    for line in requires(package) or []:
        needed = Requirement(line)
        if needed.marker and not needed.marker.evaluate({"extra": ""}):
            continue
        try:
            found = version(needed.name)
        except PackageNotFoundError:
            wrong.append(f"{needed.name} is missing")
            continue
        if not needed.specifier.contains(found, prereleases=True):
            wrong.append(f"{needed.name} is {found}, and {needed.specifier} is needed")
    if wrong:
        return Finding("packages", "failed", ", ".join(wrong), "run launch/install.sh, or pip install -U stylefinetune")
    cuda = torch.version.cuda
    build = f"for CUDA {cuda}" if cuda else "without CUDA"
    return Finding("packages", "ok", f"torch {torch.__version__}, {build}; the others have the needed versions")


def check_aria2c() -> Finding:
    """Check that there is an aria2c for `shards assemble`."""
    try:
        return Finding("aria2c", "ok", find_aria2c())
    except ShardsError as error:
        found, _, remedy = str(error).partition("; ")
        return Finding("aria2c", "failed", found, remedy)
