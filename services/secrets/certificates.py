"""The gateway's certificate: by a small authority of the stack's own, or the operator's, checked before it is used.

A certificate and its key are one PEM file for the gateway (chain first), so that a renewal is never seen half done.
"""

from __future__ import annotations

import datetime as dt
import ipaddress
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.types import CertificateIssuerPrivateKeyTypes, PrivateKeyTypes
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

AUTHORITY_DAYS = 3650
LEAF_DAYS = 397  # the most that browsers accept
RENEWED_DAYS = 30  # before its end
CLOCKS_DIFFER = dt.timedelta(hours=1)
# By these names the gateway is reached whatever the operator chose.
LOCAL_NAMES = ("localhost", "127.0.0.1", "::1", "nginx", "gateway")
OTHERS_MAY = 0o007


class CertificateError(Exception):
    """One or more faults; the message has a line for each."""


def find_names(bind: str, public_host: str) -> tuple[str, ...]:
    """Return the names and addresses that the certificate is for."""
    # Published on all addresses of the machine: they are not known here.
    chosen = [*LOCAL_NAMES, "" if ipaddress.ip_address(bind).is_unspecified else bind, public_host]
    return tuple(dict.fromkeys(name for name in chosen if name))


def render_name(name: str) -> x509.GeneralName:
    """Return a subject alternative name: an address, or a DNS name."""
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def render_key(key: PrivateKeyTypes) -> str:
    """Return a private key as PEM."""
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    ).decode()


def render_certificate(certificate: x509.Certificate) -> str:
    """Return a certificate as PEM."""
    return certificate.public_bytes(serialization.Encoding.PEM).decode()


def begin(subject: x509.Name, key: ec.EllipticCurvePrivateKey, now: dt.datetime, days: int) -> x509.CertificateBuilder:
    """Return what both kinds of certificates have."""
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - CLOCKS_DIFFER)
        .not_valid_after(now - CLOCKS_DIFFER + dt.timedelta(days=days))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )


def usage(*, signs_certificates: bool) -> x509.KeyUsage:
    """Return what a key may do: sign certificates, or sign handshakes."""
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def make_authority(now: dt.datetime) -> str:
    """Return a new authority: its certificate and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    # Its serial number is in its name: clients that knew a former authority don't take one for the other.
    serial = f"{x509.random_serial_number():x}"[:8]
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"mlflow-stack authority {serial}")])
    certificate = (
        begin(name, key, now, AUTHORITY_DAYS)
        .issuer_name(name)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(usage(signs_certificates=True), critical=True)
        .sign(key, hashes.SHA256())
    )
    return render_certificate(certificate) + render_key(key)


def read_authority(authority: str) -> tuple[x509.Certificate, CertificateIssuerPrivateKeyTypes]:
    """Return the authority's certificate and key."""
    key = serialization.load_pem_private_key(authority.encode(), None)
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise CertificateError("the stack's own authority has no key of the kind that it was made with")
    return x509.load_pem_x509_certificate(authority.encode()), key


@dataclass(frozen=True)
class Kind:
    """What a certificate is for.

    Attributes:
        common_name: of whom it is.
        days: how long it is good.
        purpose: the end of a connection that it is for.
    """

    common_name: str
    days: int
    purpose: x509.ObjectIdentifier


GATEWAY = Kind("mlflow-stack gateway", LEAF_DAYS, ExtendedKeyUsageOID.SERVER_AUTH)


def make_leaf(authority: str, names: tuple[str, ...], now: dt.datetime, kind: Kind = GATEWAY) -> str:
    """Return a new certificate of the authority's for these names, and its key."""
    issuer, issuer_key = read_authority(authority)
    key = ec.generate_private_key(ec.SECP256R1())
    certificate = (
        begin(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, kind.common_name)]), key, now, kind.days)
        .issuer_name(issuer.subject)
        .add_extension(x509.SubjectAlternativeName([render_name(name) for name in names]), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(usage(signs_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([kind.purpose]), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(
                issuer.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
            ),
            critical=False,
        )
        .sign(issuer_key, hashes.SHA256())
    )
    return render_certificate(certificate) + render_key(key)


def is_fit(leaf: str, authority: str, names: tuple[str, ...], now: dt.datetime) -> bool:
    """Return whether a certificate made before still does: this authority's, for these names, not soon at its end."""
    try:
        certificate = x509.load_pem_x509_certificate(leaf.encode())
        certificate.verify_directly_issued_by(read_authority(authority)[0])
    except (ValueError, TypeError, InvalidSignature):  # whatever is wrong with it: a new one is made
        return False
    remaining = certificate.not_valid_after_utc - now
    wanted = {render_name(name) for name in names}
    return remaining > dt.timedelta(days=RENEWED_DAYS) and set(read_names(certificate)) == wanted


def read_names(certificate: x509.Certificate) -> list[x509.GeneralName]:
    """Return the names that a certificate is for; the common name counts for no client of today."""
    try:
        return list(certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value)
    except x509.ExtensionNotFound:
        return []


def fits(certificate: x509.Certificate, host: str) -> bool:
    """Return whether a certificate is for this host (RFC 6125: a wildcard stands for one label)."""
    wanted = render_name(host.lower())
    names = read_names(certificate)
    if isinstance(wanted, x509.IPAddress):
        return wanted in names
    parent = host.lower().partition(".")[2]
    known = {name.value.lower() for name in names if isinstance(name, x509.DNSName)}
    return host.lower() in known or (bool(parent) and f"*.{parent}" in known)


def read_file(setting: str, path: Path, shown: str) -> bytes:
    """Return the content of an operator's file. Raises CertificateError."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise CertificateError(f"{setting} is {shown!r}: {error.strerror}: name a PEM file") from None
    if not content:
        raise CertificateError(f"{setting} is {shown!r}, which is missing or empty: name a PEM file")
    return content


def read_chain(setting: str, path: Path, shown: str) -> list[x509.Certificate]:
    """Return the operator's certificate and those that follow it. Raises CertificateError."""
    try:
        return x509.load_pem_x509_certificates(read_file(setting, path, shown))
    except ValueError:
        raise CertificateError(
            f"{setting} is {shown!r}, which has no PEM certificate: name a file with BEGIN CERTIFICATE"
        ) from None


def read_key(path: Path, shown: str) -> PrivateKeyTypes:
    """Return the operator's key. Raises CertificateError, also for one that everybody may read."""
    content = read_file("STACK_TLS_KEY", path, shown)
    if path.stat().st_mode & OTHERS_MAY:
        raise CertificateError(
            f"STACK_TLS_KEY is {shown!r}, which every user of this machine may use: chmod o= {shown}"
        )
    try:
        return serialization.load_pem_private_key(content, None)
    except TypeError:
        fault = "which needs a passphrase: write the key without one (openssl pkey)"
    except ValueError:
        fault = "which has no PEM private key: name a file with BEGIN PRIVATE KEY"
    raise CertificateError(f"STACK_TLS_KEY is {shown!r}, {fault}")


def find_faults(leaf: x509.Certificate, shown: str, public_host: str, now: dt.datetime) -> list[str]:
    """Return what is wrong with an operator's certificate by itself."""
    faults = []
    if leaf.not_valid_after_utc <= now:
        faults.append(f"STACK_TLS_CERT is {shown!r}, which expired on {leaf.not_valid_after_utc:%Y-%m-%d}: renew it")
    if leaf.not_valid_before_utc > now:
        begin = f"{leaf.not_valid_before_utc:%Y-%m-%d %H:%M} UTC"
        faults.append(f"STACK_TLS_CERT is {shown!r}, which is valid from {begin}: wait, or set this machine's clock")
    if public_host and not fits(leaf, public_host):
        known = ", ".join(str(name.value) for name in read_names(leaf)) or "no name"
        faults.append(
            f"STACK_PUBLIC_URL has the host {public_host!r}, but STACK_TLS_CERT is for {known}: make them fit"
        )
    return faults


def read_pair(
    certificate_file: Path, key_file: Path, shown: tuple[str, str], public_host: str, now: dt.datetime
) -> str:
    """Return the operator's certificate, chain and key as one PEM. Raises CertificateError with every fault.

    `shown` has the two paths as the operator wrote them.
    """
    faults: list[str] = []
    chain: list[x509.Certificate] = []
    key: PrivateKeyTypes | None = None
    try:
        chain = read_chain("STACK_TLS_CERT", certificate_file, shown[0])
        faults += find_faults(chain[0], shown[0], public_host, now)
    except CertificateError as error:
        faults.append(str(error))
    try:
        key = read_key(key_file, shown[1])
    except CertificateError as error:
        faults.append(str(error))
    if chain and key and key.public_key() != chain[0].public_key():
        faults.append(f"STACK_TLS_KEY is {shown[1]!r}, which is the key of another certificate than STACK_TLS_CERT's")
    if faults or key is None:
        raise CertificateError("\n".join(faults))
    return "".join(map(render_certificate, chain)) + render_key(key)
