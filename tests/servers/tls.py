"""A Valkey behind TLS with its own users, and a certificate authority for it."""

import ipaddress
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

import redis
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from processes import free_port, wait_for

from deploy.valkey import valkey_command
from workers.host.parent_death import dying_with_parent


def authority(folder: Path) -> Path:
    """Create an authority and return its certificate; `server.pem` beside it is for 127.0.0.1."""
    folder.mkdir(parents=True)
    key, server_key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test authority")])
    address = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    now = datetime.now(UTC)

    def certificate(public: ec.EllipticCurvePublicKey, **extra: x509.ExtensionType) -> bytes:
        subject = name if "ca" in extra else x509.Name([])
        made = x509.CertificateBuilder(name, subject, public, x509.random_serial_number())
        made = made.not_valid_before(now - timedelta(days=1)).not_valid_after(
            now + timedelta(days=1)
        )
        for extension in extra.values():
            made = made.add_extension(extension, critical=True)
        return made.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)

    constraints = x509.BasicConstraints(ca=True, path_length=0)
    (folder / "ca.pem").write_bytes(certificate(key.public_key(), ca=constraints))
    written = server_key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    signed = certificate(server_key.public_key(), address=address)
    (folder / "server.pem").write_bytes(signed + written)
    return folder / "ca.pem"


def tls_binary() -> str | None:
    """Return a local server that was built with TLS, which the tests' own was not."""
    for name in ("valkey-server", "redis-server"):
        if (found := shutil.which(name)) is not None:
            linked = subprocess.run(["ldd", found], capture_output=True, text=True, check=False)
            if "libssl" in linked.stdout:
                return found
    return None


@contextmanager
def encrypted_valkey(folder: Path, users: str, *, native: bool) -> Iterator[tuple[int, str]]:
    """Run a Valkey; yield its TLS port and the URL of an operator with all rights. `users` are
    lines of an ACL file.

    With `native`, the server itself speaks TLS; otherwise a terminator does, as stunnel would.
    """
    listening, port, pem = folder / "valkey.sock", free_port(), folder / "ca" / "server.pem"
    operator = f"unix://operator:all@{listening}"  # pragma: allowlist secret
    (folder / "users.acl").write_text(f"user operator on >all ~* &* +@all\n{users}")
    command = [*valkey_command(folder / "data", listening), "--aclfile", str(folder / "users.acl")]
    if native:
        command[0] = str(tls_binary())
        command += ["--tls-port", str(port), "--tls-auth-clients", "no"]
        command += ["--tls-cert-file", str(pem), "--tls-key-file", str(pem)]
        command += ["--tls-ca-cert-file", str(pem.with_name("ca.pem"))]
    with subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        preexec_fn=dying_with_parent(),  # noqa: PLW1509
    ) as server:
        try:
            wait_for(lambda: _answers(operator), what="Valkey")
            if native:
                yield port, operator
            else:
                with terminator(port, pem, listening):
                    yield port, operator
        finally:
            server.kill()


def _answers(url: str) -> bool:
    with suppress(redis.RedisError), redis.Redis.from_url(url) as client:
        return bool(client.ping())
    return False


@contextmanager
def terminator(port: int, pem: Path, listening: Path) -> Iterator[int]:
    """Pass TLS on a port to a unix socket.

    In a process of its own, it leaves no half-closed connection in this one.
    """
    file = Path(__file__).with_name("tls_terminator.py")
    command = [sys.executable, str(file), str(port), str(pem), str(listening)]
    with subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        preexec_fn=dying_with_parent(),  # noqa: PLW1509
    ) as running:
        try:
            wait_for(lambda: _listens(port), what="a TLS terminator")
            yield port
        finally:
            running.kill()


def _listens(port: int) -> bool:
    with suppress(OSError), socket.create_connection(("127.0.0.1", port)):
        return True
    return False
