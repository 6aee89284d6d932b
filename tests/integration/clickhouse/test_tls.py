"""ClickHouse behind TLS: an authority of its own, client certificates, and their rotation."""

from __future__ import annotations

import ssl
from pathlib import Path

import pytest

from runwire_consumers.clickhouse.sink import ClickHouseSink
from runwire_consumers.core.clock import Deadline
from runwire_consumers.core.errors import Retryable
from support.body_limit import BodyLimit
from support.builders import batch_of, metric_record
from support.certificates import CertificateAuthority

pytestmark = pytest.mark.engine

OPEN = 1 << 40


def door_context(own: tuple[Path, Path], clients: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*own)
    context.load_verify_locations(clients)
    context.verify_mode = ssl.CERT_REQUIRED
    # Later versions refuse a client after its first request, sometimes by a reset alone.
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    return context


def test_rotated_certificates_are_taken_without_a_restart(
    clickhouse_url: str, tmp_path: Path
) -> None:
    """A server with another authority's certificate is waited for, until the CA file has that."""
    first, second = (CertificateAuthority(tmp_path, name) for name in ("first", "second"))
    context = door_context(first.issue("server"), first.certificate)
    trusted = tmp_path / "trusted.pem"
    trusted.write_bytes(first.certificate.read_bytes())
    client, key = first.issue("client")
    with BodyLimit(lambda: clickhouse_url, OPEN, tls=context) as door:
        options = f"ca_cert={trusted}&client_cert={client}&client_cert_key={key}"
        sink = ClickHouseSink(f"{door.url}?{options}")
        sink.write(batch_of([metric_record(0, calls=1)], "w:1"))
        context.load_cert_chain(*second.issue("renewed"))
        later = batch_of([metric_record(1, calls=1)], "w:2")
        with pytest.raises(Retryable, match=r"no trusted connection.*ca_cert"):
            sink.write(later)
        trusted.write_bytes(second.certificate.read_bytes())
        sink.write(later)
        sink.close(Deadline(1))


def test_missing_client_certificate_is_reported_as_no_trusted_connection(
    clickhouse_url: str, tmp_path: Path
) -> None:
    """A server that asks for a client's certificate is not reported as one that is away."""
    authority = CertificateAuthority(tmp_path, "one")
    context = door_context(authority.issue("server"), authority.certificate)
    with BodyLimit(lambda: clickhouse_url, OPEN, tls=context) as door:
        sink = ClickHouseSink(f"{door.url}?ca_cert={authority.certificate}")
        with pytest.raises(Retryable, match="client_cert"):
            sink.check()
        sink.close(Deadline(1))
