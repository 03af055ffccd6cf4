"""Serves a page and an API that classify pictures: `stylefinetune serve RUN`."""

import ipaddress
import os
import secrets
import shlex
import socket
import sys
from pathlib import Path

from jsonargparse import ArgumentParser, Namespace

from stylefinetune.checkpoint.checkpoint import Checkpoint
from stylefinetune.checkpoint.folders import is_named
from stylefinetune.checkpoint.open_network import add_network_options, open_network
from stylefinetune.config.command_line import add_ema_option, command_parser, parse_command
from stylefinetune.distributed.world import World
from stylefinetune.errors import UserError, run_command
from stylefinetune.prediction.network import PictureNetwork
from stylefinetune.run_report.history import EVALUATION
from stylefinetune.serve.settings import Model, Settings

_TOKEN_VARIABLE = "STYLEFINETUNE_TOKEN"  # noqa: S105 -- the name of a variable
_SHORTEST_TOKEN = 16  # characters
_MOST_THREADS = 16  # by default


def build_parser() -> ArgumentParser:
    """Return the parser of the command line."""
    parser = command_parser(
        "serve",
        "Serves a page and a JSON API that classify pictures, on this machine only unless --host is given.",
        ["runs/mine", "runs/mine:best --port 0 --no_url_fetch", "runs/mine --host 0.0.0.0"],
    )
    add_network_options(parser, "checkpoint")
    parser.add_argument("--host", default="127.0.0.1", help="name or address to listen on; 0.0.0.0 for all")
    parser.add_argument("--port", type=int, default=8000, help="port to listen on; 0 for any free one")
    parser.add_argument(
        "--token",
        help=f"secret that requests carry (default: ${_TOKEN_VARIABLE}; a new one if --host needs it)",
    )
    parser.add_argument(
        "--allowed_host",
        action="append",
        metavar="NAME",
        help="host name under which clients reach the server; repeat for more",
    )
    parser.add_argument("--trusted_proxy", metavar="IP", help="reverse proxy whose X-Forwarded headers are trusted")
    parser.add_argument(
        "--evaluation",
        type=Path,
        metavar="DIR",
        help="folder of evaluate --out (default: RUN/evaluation)",
    )
    _add_limits(parser)
    add_ema_option(parser)
    return parser


def _add_limits(parser: ArgumentParser) -> None:
    usual = Settings()
    parser.add_argument("--top", type=int, default=usual.top, help="number of classes in a response")
    parser.add_argument("--max_bytes", type=int, default=usual.max_bytes, help="largest picture, in bytes")
    parser.add_argument("--max_pixels", type=int, default=usual.max_pixels, help="largest picture, in pixels")
    parser.add_argument("--timeout", type=float, default=usual.timeout, help="seconds to receive or fetch a picture")
    parser.add_argument(
        "--rate",
        type=float,
        default=usual.rate,
        help="POST requests, and wrong tokens, a second of one client; 0 for no limit",
    )
    parser.add_argument(
        "--queue", type=int, default=usual.queue, help="pictures that may wait at a time; further ones get status 503"
    )
    parser.add_argument("--max_batch", type=int, default=usual.max_batch, help="pictures classified together")
    parser.add_argument(
        "--max_wait",
        type=float,
        default=usual.max_wait,
        help="milliseconds that a picture waits for others, to be classified together",
    )
    parser.add_argument("--workers", type=int, help="threads that decode (default: one for each core, at most 16)")
    parser.add_argument("--no_url_fetch", "--no-url-fetch", action="store_true", help="don't fetch pictures from URLs")
    parser.add_argument("--allow_private", action="store_true", help="also fetch from servers in private networks")


def serve(arguments: list[str]) -> None:
    """Answer requests until Ctrl-C or SIGTERM."""
    options = parse_command(build_parser(), arguments)
    _check(options)
    try:
        from stylefinetune.serve.access import Access  # noqa: PLC0415 -- these need an extra
        from stylefinetune.serve.app import build_app  # noqa: PLC0415
        from stylefinetune.serve.classifier import PictureClassifier  # noqa: PLC0415
        from stylefinetune.serve.gallery import Gallery  # noqa: PLC0415
        from stylefinetune.serve.server import build_server, open_socket, run_server  # noqa: PLC0415
    except ImportError as error:
        raise UserError(
            f"stylefinetune serve needs a package that is missing ({error}); pip install 'stylefinetune[serve]'"
        ) from error
    settings = _settings(options)
    saved = open_network(options, options.checkpoint).with_weights(ema=options.ema)
    run = _run_folder(saved.path)
    evaluation = options.evaluation or run / EVALUATION
    gallery = Gallery.open(evaluation, saved.config.train.loss)
    if options.evaluation and gallery is None:
        raise UserError(
            f"--evaluation: {evaluation} has no predictions.parquet; evaluate RUN --out {evaluation} writes it"
        )
    with open_socket(options.host, options.port) as listener:
        token = _choose_token(options, listener)
        access = Access([options.host, *(options.allowed_host or [])], token, settings.rate)
        network = PictureNetwork(saved, World.alone().device)
        with PictureClassifier(network, settings) as classifier:
            app = build_app(_describe(saved, run, options), classifier, gallery, access, settings)
            address = _address(options, listener, token)
            run_server(build_server(app, options.trusted_proxy, lambda: print(address, flush=True)), listener)


def _check(options: Namespace) -> None:
    for name in ("top", "max_bytes", "max_pixels", "timeout", "queue", "max_batch", "workers"):
        value = options[name]
        if value is not None and not value > 0:
            raise UserError(f"--{name} is {value:g}; it must be above 0")
    for name in ("rate", "max_wait"):
        if not options[name] >= 0:
            raise UserError(f"--{name} is {options[name]:g}; it must not be negative")
    if not 0 <= options.port <= 65535:
        raise UserError(f"--port is {options.port}; it must be from 0 to 65535")
    if options.trusted_proxy is not None and not _is_network(options.trusted_proxy):
        raise UserError(f"--trusted_proxy is {options.trusted_proxy!r}; it must be an IP address, such as 10.0.0.1")
    if not options.host:
        raise UserError("--host is empty; 0.0.0.0 stands for all addresses")


def _is_network(text: str) -> bool:
    """Return whether a text is an address, or a network of them, which uvicorn takes too."""
    try:
        ipaddress.ip_network(text)
    except ValueError:
        return False
    return True


def _settings(options: Namespace) -> Settings:
    names = ("top", "max_bytes", "max_pixels", "timeout", "rate", "queue", "max_batch", "max_wait", "allow_private")
    workers = options.workers or min(os.cpu_count() or 1, _MOST_THREADS)
    return Settings(workers=workers, url_fetch=not options.no_url_fetch, **{name: options[name] for name in names})


def _run_folder(checkpoint: Path) -> Path:
    """Return the run of a checkpoint; a folder that isn't in a run, and a .caffemodel's folder, are their own."""
    if is_named(checkpoint) and checkpoint.parent.name == "checkpoints":
        return checkpoint.parent.parent
    return checkpoint if checkpoint.is_dir() else checkpoint.parent


def _describe(saved: Checkpoint, run: Path, options: Namespace) -> Model:
    facts = {
        "checkpoint": str(saved.path),
        "arch": saved.config.model.arch,
        "iteration": saved.progress.iteration,
        "loss": saved.config.train.loss,
        "input_size": list(saved.progress.input_size),
    }
    command = shlex.join(["stylefinetune", "evaluate", str(options.checkpoint), "--out", str(run / EVALUATION)])
    return Model(run.resolve().name, facts, command)


def _choose_token(options: Namespace, listener: socket.socket) -> str | None:
    """Return the token of --token or the environment, or a new one if other machines can reach the server.

    Raises:
        UserError: it is too short, or can't be part of a header.
    """
    token = options.token if options.token is not None else os.environ.get(_TOKEN_VARIABLE)
    if token is None:
        address = ipaddress.ip_address(listener.getsockname()[0].partition("%")[0])
        return None if address.is_loopback else secrets.token_urlsafe(24)
    if len(token) < _SHORTEST_TOKEN or not token.isascii() or not token.isprintable() or " " in token:
        raise UserError(f"the token must have at least {_SHORTEST_TOKEN} characters, of ASCII and without spaces")
    return token


def _address(options: Namespace, listener: socket.socket, token: str | None) -> str:
    """Return the line that is printed at the start."""
    host, port = options.host, listener.getsockname()[1]
    if host in {"0.0.0.0", "::"}:  # noqa: S104 -- compared
        host = socket.gethostname()
    place = f"http://{f'[{host}]' if ':' in host else host}:{port}/"
    is_new = token is not None and token not in {options.token, os.environ.get(_TOKEN_VARIABLE)}
    return f"serving {options.checkpoint} at {place}{f'?token={token}' if is_new else ''}"


if __name__ == "__main__":
    sys.exit(run_command(serve, sys.argv[1:]))
