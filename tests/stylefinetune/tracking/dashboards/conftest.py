import pytest

from tests.wandb_server import WandbServer


@pytest.fixture
def server():
    with WandbServer() as running:
        yield running
