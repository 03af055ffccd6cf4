"""docs/architecture.md names the packages and modules that exist, and its diagram has the layers of pyproject.toml."""

import re
import tomllib
from pathlib import Path

import pytest

PAGE = Path("docs/architecture.md").read_text()
PACKAGES = ("shards", "stylefinetune")


@pytest.mark.parametrize("path", sorted(set(re.findall(r"`([a-z][\w/]*(?:\.py|/))`", PAGE))))
def test_a_module_that_the_page_names_exists(path):
    """A path may begin within a package, as in `config/cli.py`."""
    assert any(list(Path(package).glob(f"**/{path}")) for package in PACKAGES) or Path(path).exists()


@pytest.mark.parametrize("package", PACKAGES)
def test_the_tree_has_every_sub_package(package):
    tree = re.search(rf"^{package}/ .*\n((?: .*\n)+)", PAGE, re.MULTILINE)
    assert tree is not None
    named = set(re.findall(r"^    (\w+)/ ", tree[1], re.MULTILINE))
    assert named == {path.parent.name for path in Path(package).glob("*/__init__.py")}


@pytest.mark.parametrize("package", PACKAGES)
def test_the_diagram_has_the_modules_of_every_layer(package):
    contracts = tomllib.loads(Path("pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    [layers] = [contract["layers"] for contract in contracts if contract.get("containers") == [package]]
    modules = {module for layer in layers for module in re.split(r" [|:] ", layer)}
    diagram = re.search(rf"subgraph {package}\n(.*?)\n    end", PAGE, re.DOTALL)
    assert diagram is not None
    assert modules <= set(re.findall(r"\w+", diagram[1]))
