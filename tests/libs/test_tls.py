"""Encrypted connections, and who is let in by certificate."""

from __future__ import annotations

import ipaddress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID
from grpc_health.v1 import health_pb2, health_pb2_grpc

from driveflow.tracking.v1 import tracking_pb2 as pb
from libs.client import Connection
from tests.postgres import Database
from tests.serving import serving


def certificate(folder: Path) -> tuple[Path, Path]:
    """A certificate of 127.0.0.1, signed by itself, and its key; PEM files."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(minutes=1))
        .not_valid_after(now + timedelta(hours=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]),
            critical=False,
        )
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    (folder / "cert.pem").write_bytes(made.public_bytes(Encoding.PEM))
    (folder / "key.pem").write_bytes(
        key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    )
    return folder / "cert.pem", folder / "key.pem"


async def serves(channel: grpc.aio.Channel) -> bool:
    """Whether the health service answers at all."""
    stub: Any = health_pb2_grpc.HealthStub(channel)
    try:
        await stub.Check(health_pb2.HealthCheckRequest(), timeout=2)
    except grpc.aio.AioRpcError:
        return False
    return True


async def test_calls_are_answered_over_tls_and_not_in_plaintext(
    database: Database, tmp_path: Path
) -> None:
    cert, key = certificate(tmp_path)
    tls = {"tls_cert": str(cert), "tls_key": str(key)}
    async with serving(database, tmp_path, **tls) as running:
        async with Connection(running.address, running.token(), tls_ca=cert) as connection:
            trip = await connection.tracking.StartTrip(pb.StartTripRequest())
            assert trip.status == pb.TRIP_STATUS_OPEN
        async with Connection(running.address) as connection:
            assert not await serves(connection.channel)


@pytest.mark.parametrize("shown", [True, False], ids=["shown", "not shown"])
async def test_with_a_client_ca_only_those_with_a_certificate_get_in(
    database: Database, tmp_path: Path, shown: bool
) -> None:
    cert, key = certificate(tmp_path)
    tls = {"tls_cert": str(cert), "tls_key": str(key), "tls_client_ca": str(cert)}
    async with serving(database, tmp_path, **tls) as running:
        own = (key.read_bytes(), cert.read_bytes()) if shown else (None, None)
        credentials = grpc.ssl_channel_credentials(cert.read_bytes(), *own)
        async with grpc.aio.secure_channel(running.address, credentials) as channel:
            assert await serves(channel) is shown
