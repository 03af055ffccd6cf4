"""launch/Dockerfile: what it copies and installs exists, and an image does not run as root. No test builds it."""

import re
import tomllib

import pytest

from tests.programs import ROOT, run

TEXT = (ROOT / "launch" / "Dockerfile").read_text(encoding="utf-8").replace("\\\n", " ")
LINES = [line.split(maxsplit=1) for line in TEXT.splitlines() if line.strip() and not line.startswith("#")]
IGNORED = (ROOT / "launch" / "Dockerfile.dockerignore").read_text(encoding="utf-8").split()


def values(instruction):
    return [value for name, value in LINES if name == instruction]


def test_the_base_has_a_full_version_and_the_image_has_a_user():
    bases = {value.split()[0] for value in values("FROM")}
    assert all(re.fullmatch(r"python:3\.\d+\.\d+-slim-\w+", base) for base in bases)
    assert values("USER")[-1] not in {"root", "0"}
    last = [name for name, _ in LINES]
    assert "RUN" not in last[last.index("USER") :]


def test_what_is_copied_and_installed_exists():
    sent = [pattern.removeprefix("!") for pattern in IGNORED if pattern.startswith("!")]
    assert IGNORED[IGNORED.index("*") + 1 :]  # everything else is left out
    assert [name for name in sent if not (ROOT / name).exists()] == []
    copied = [value.split()[0] for value in values("COPY") if not value.startswith("--from")]
    assert all((ROOT / name).exists() for name in copied)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    files = [project["readme"], *project["license-files"], "launch/train.sh", "configs/finetune/resnet50.yaml"]
    assert all(any(name == part or name.startswith(f"{part}/") for part in sent) for name in files)
    (extras,) = (value.split("=")[1] for value in values("ARG") if value.startswith("EXTRAS="))
    assert set(extras.split(",")) <= project["optional-dependencies"].keys()


@pytest.mark.parametrize("number", range(len(values("RUN"))))
def test_a_command_is_valid_shell(number):
    done = run("sh", "-n", "-c", values("RUN")[number])
    assert (done.returncode, done.stderr) == (0, "")
