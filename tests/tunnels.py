"""HTTPS on 127.0.0.1: a server with a self-signed certificate, and a CONNECT proxy with a password."""

import base64
import contextlib
import datetime as dt
import http.server
import select
import socket
import ssl
import threading
import time
from collections.abc import Generator
from pathlib import Path

from cryptography import x509  # installed with moto
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from tests.loopback import LoopbackServer

HOST = "pictures.example.com"
MAX_TUNNEL = 20.0  # seconds


def write_certificate(path: Path) -> None:
    """Write a key and a self-signed certificate for HOST into one file, for the server and for the trust store."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, HOST)])
    now = dt.datetime.now(dt.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(HOST)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    secret = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    path.write_bytes(secret + certificate.public_bytes(serialization.Encoding.PEM))


@contextlib.contextmanager
def https_server(certificate: Path) -> Generator[LoopbackServer]:
    """Serve over TLS."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    server = LoopbackServer()
    server._server.socket = context.wrap_socket(server._server.socket, server_side=True)
    with server:
        yield server


@contextlib.contextmanager
def tunnel_proxy(target: LoopbackServer) -> Generator[str]:
    """Run a proxy that connects every CONNECT of user `me`, password `right`, to `target`; yield its host:port."""
    proxy = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Tunnel)
    proxy.daemon_threads, proxy.block_on_close = True, False
    proxy.target = target._server.server_address  # type: ignore[attr-defined]
    thread = threading.Thread(target=proxy.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield f"127.0.0.1:{proxy.server_address[1]}"
    finally:
        proxy.shutdown()
        proxy.server_close()
        thread.join(5)


class _Tunnel(http.server.BaseHTTPRequestHandler):
    timeout = MAX_TUNNEL

    def log_message(self, *_):
        pass

    def do_CONNECT(self):
        if self.headers.get("Proxy-Authorization") != "Basic " + base64.b64encode(b"me:right").decode():
            self.send_response(407)
            self.send_header("Proxy-Authenticate", 'Basic realm="tunnels"')
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        with socket.create_connection(self.server.target) as other:
            self.send_response(200)
            self.end_headers()
            peer_of = {self.connection: other, other: self.connection}
            deadline = time.monotonic() + MAX_TUNNEL
            while time.monotonic() < deadline:
                for ready in select.select(list(peer_of), [], [], 0.5)[0]:
                    part = ready.recv(65536)
                    if not part:
                        return
                    peer_of[ready].sendall(part)
