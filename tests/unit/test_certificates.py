"""Certificates: made by the stack's own authority, renewed in time, and what is refused of an operator's files."""

from __future__ import annotations

import datetime as dt
import ipaddress
from pathlib import Path

import certificates
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

NOW = dt.datetime(2026, 6, 1, 12, tzinfo=dt.UTC)
NAMES = certificates.find_names("10.1.2.3", "mlflow.example.org")
SHOWN = ("certs/a.pem", "certs/a.key")


@pytest.fixture(scope="module")
def authority() -> str:
    return certificates.make_authority(NOW)


@pytest.fixture(scope="module")
def leaf(authority: str) -> str:
    return certificates.make_leaf(authority, NAMES, NOW)


def read(pem: str) -> x509.Certificate:
    return x509.load_pem_x509_certificate(pem.encode())


def test_names_follow_from_the_choices() -> None:
    local = ("localhost", "127.0.0.1", "::1", "nginx", "gateway")
    assert certificates.find_names("127.0.0.1", "") == local
    assert certificates.find_names("0.0.0.0", "") == local
    assert (*local, "10.1.2.3", "mlflow.example.org") == NAMES


def test_the_authority_signs_nothing_but_leaves_and_lives_ten_years(authority: str) -> None:
    certificate = read(authority)
    constraints = certificate.extensions.get_extension_for_class(x509.BasicConstraints)
    assert constraints.critical
    assert (constraints.value.ca, constraints.value.path_length) == (True, 0)
    assert certificate.extensions.get_extension_for_class(x509.KeyUsage).value.key_cert_sign
    assert (certificate.not_valid_after_utc - NOW).days in range(3640, 3651)


def test_the_leaf_is_the_authoritys_and_for_all_names(authority: str, leaf: str) -> None:
    certificate = read(leaf)
    certificate.verify_directly_issued_by(read(authority))
    assert (certificate.not_valid_after_utc - certificate.not_valid_before_utc).days <= 397
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert set(names.get_values_for_type(x509.DNSName)) == {"localhost", "nginx", "gateway", "mlflow.example.org"}
    addresses = {str(address) for address in names.get_values_for_type(x509.IPAddress)}
    assert addresses == {"127.0.0.1", "::1", "10.1.2.3"}
    assert not certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    key = serialization.load_pem_private_key(leaf.encode(), None)
    assert key.public_key() == certificate.public_key()


@pytest.mark.parametrize(
    ("days", "names", "fit"),
    [
        (0, NAMES, True),
        (360, NAMES, True),
        (370, NAMES, False),  # less than 30 days remain
        (500, NAMES, False),
        (0, NAMES[:-1], False),
        (0, (*NAMES, "other.example.org"), False),
    ],
)
def test_a_leaf_is_renewed_in_time_and_when_names_change(
    authority: str, leaf: str, days: int, names: tuple[str, ...], fit: bool
) -> None:
    assert certificates.is_fit(leaf, authority, names, NOW + dt.timedelta(days=days)) is fit


def test_a_leaf_of_another_authority_or_none_is_renewed(authority: str, leaf: str) -> None:
    assert not certificates.is_fit(leaf, certificates.make_authority(NOW), NAMES, NOW)
    assert not certificates.is_fit("", authority, NAMES, NOW)
    assert not certificates.is_fit("-----BEGIN CERTIFICATE-----\nx\n-----END CERTIFICATE-----\n", authority, NAMES, NOW)


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("mlflow.example.org", True),
        ("MLflow.Example.org", True),
        ("a.wild.example.org", True),
        ("wild.example.org", False),
        ("a.b.wild.example.org", False),
        ("example.org", False),
        ("10.1.2.3", True),
        ("10.1.2.4", False),
        ("localhost", True),
        ("org", False),
    ],
)
def test_a_host_fits_a_name_a_wildcard_or_an_address(authority: str, host: str, expected: bool) -> None:
    leaf = certificates.make_leaf(authority, (*NAMES, "*.wild.example.org"), NOW)
    assert certificates.fits(read(leaf), host) is expected


def write_pair(folder: Path, leaf: str, *, mode: int = 0o600) -> tuple[Path, Path]:
    """Write a certificate and its key as an operator has them."""
    certificate, key = folder / "a.pem", folder / "a.key"
    head, mark, tail = leaf.partition("-----BEGIN PRIVATE KEY-----")
    certificate.write_text(head)
    key.write_text(mark + tail)
    key.chmod(mode)
    return certificate, key


def test_good_files_are_taken_with_their_chain(tmp_path: Path, authority: str, leaf: str) -> None:
    certificate, key = write_pair(tmp_path, leaf)
    chain = certificates.render_certificate(read(authority))
    certificate.write_text(f"text before\n{certificate.read_text()}{chain}")
    pair = certificates.read_pair(certificate, key, SHOWN, "mlflow.example.org", NOW)
    assert x509.load_pem_x509_certificates(pair.encode()) == [read(leaf), read(authority)]
    assert pair.count("PRIVATE KEY") == 2


def find_faults(certificate: Path, key: Path, host: str = "", now: dt.datetime = NOW) -> list[str]:
    with pytest.raises(certificates.CertificateError) as error:
        certificates.read_pair(certificate, key, SHOWN, host, now)
    return str(error.value).splitlines()


def test_each_fault_of_the_files_is_one_clear_line(tmp_path: Path, authority: str, leaf: str) -> None:
    certificate, key = write_pair(tmp_path, leaf)
    later, earlier = NOW + dt.timedelta(days=400), NOW - dt.timedelta(days=2)
    cases: list[tuple[list[str], tuple[str, ...]]] = [
        (find_faults(tmp_path / "none", key), ("STACK_TLS_CERT is 'certs/a.pem'", "No such file")),
        (find_faults(Path("/dev/null"), key), ("STACK_TLS_CERT is 'certs/a.pem'", "missing or empty")),
        (find_faults(certificate, Path("/dev/null")), ("STACK_TLS_KEY is 'certs/a.key'", "missing or empty")),
        (find_faults(tmp_path, key), ("STACK_TLS_CERT is 'certs/a.pem'", "directory")),
        (find_faults(key, key), ("STACK_TLS_CERT is 'certs/a.pem'", "no PEM certificate")),
        (find_faults(certificate, key, now=later), ("STACK_TLS_CERT is 'certs/a.pem'", "expired on 2027-07-03")),
        (find_faults(certificate, key, now=earlier), ("STACK_TLS_CERT is 'certs/a.pem'", "valid from 2026-06-01")),
        (find_faults(certificate, key, "other.example.org"), ("STACK_PUBLIC_URL", "'other.example.org'", "10.1.2.3")),
    ]
    certificate.chmod(0o600)
    cases.append((find_faults(certificate, certificate), ("STACK_TLS_KEY is 'certs/a.key'", "no PEM private key")))
    other = tmp_path / "other"
    other.mkdir()
    _, stranger = write_pair(other, certificates.make_leaf(authority, NAMES, NOW))
    cases.append((find_faults(certificate, stranger), ("STACK_TLS_KEY is 'certs/a.key'", "another certificate")))
    key.chmod(0o644)
    cases.append((find_faults(certificate, key), ("STACK_TLS_KEY is 'certs/a.key'", "chmod o= certs/a.key")))
    for lines, parts in cases:
        assert len(lines) == 1, lines
        for part in parts:
            assert part in lines[0]


def test_a_key_with_a_passphrase_is_refused(tmp_path: Path, leaf: str) -> None:
    certificate, key = write_pair(tmp_path, leaf)
    secret = ec.generate_private_key(ec.SECP256R1()).private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.BestAvailableEncryption(b"x")
    )
    key.write_bytes(secret)
    (line,) = find_faults(certificate, key)
    assert "needs a passphrase" in line


def test_several_faults_are_named_at_once(tmp_path: Path, leaf: str) -> None:
    certificate, key = write_pair(tmp_path, leaf, mode=0o644)
    lines = find_faults(certificate, key, "other.example.org", NOW + dt.timedelta(days=400))
    assert len(lines) == 3, lines


def test_addresses_are_addresses() -> None:
    assert certificates.render_name("10.1.2.3") == x509.IPAddress(ipaddress.ip_address("10.1.2.3"))
    assert certificates.render_name("a.example") == x509.DNSName("a.example")
