import socket

import pytest

from launch import rendezvous
from stylefinetune.distributed import environment


@pytest.fixture
def listening():
    with socket.create_server(("", 0)) as server:
        yield server.getsockname()[1]


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch):
    monkeypatch.setattr(rendezvous, "WAIT_SECONDS", 0.0)
    monkeypatch.setattr(environment, "RESOLVE_SECONDS", 0.0)


def check(monkeypatch, capsys, address, port, node):
    for name, value in (("MASTER_ADDR", address), ("MASTER_PORT", port), ("NODE_RANK", node)):
        monkeypatch.setenv(name, str(value))
    return rendezvous.main(), capsys.readouterr().err


def test_a_free_port_and_a_port_of_another_node_are_accepted(monkeypatch, capsys, listening):
    assert check(monkeypatch, capsys, "localhost", 0, node=0) == (0, "")
    assert check(monkeypatch, capsys, "localhost", listening, node=1) == (0, "")


def test_a_port_in_use_and_an_unknown_name_are_one_line(monkeypatch, capsys, listening):
    code, line = check(monkeypatch, capsys, "localhost", listening, node=0)
    assert code == 2
    reason = f"MASTER_PORT is {listening}, which can't be used (Address already in use); set another port"
    assert line == f"error: {reason}\n"

    def resolve(_address, _port):
        raise OSError(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    code, line = check(monkeypatch, capsys, "n1", 0, node=0)
    assert (code, line.count("\n")) == (2, 1)
    assert line.startswith("error: MASTER_ADDR is n1, which can't be resolved (Name or service not known); set it to")


def test_a_port_that_becomes_free_is_awaited(monkeypatch):
    monkeypatch.setattr(rendezvous, "WAIT_SECONDS", 600.0)
    server = socket.create_server(("", 0))
    monkeypatch.setattr(rendezvous.time, "sleep", lambda _seconds: server.close())
    rendezvous.await_port(server.getsockname()[1])
