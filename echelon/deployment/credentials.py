"""Certificates and keys of a deployment, as by openssl and ``ssh-keygen -t ecdsa -b 384``."""

import ipaddress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

LIFETIME = timedelta(days=365)


@dataclass(frozen=True)
class Certificates:
    """Files that a SuperLink with TLS needs; workers need only ``authority``."""

    authority: Path
    server: Path
    server_key: Path


def make_certificates(folder: Path, hosts: list[str]) -> Certificates:
    """Write the certificate of a new authority, whose key is not kept, and a certificate for a SuperLink.

    Parameters
    ----------
    folder : Path
        Output folder; private keys are readable only by their owner.
    hosts : list of str
        Host names and addresses of the SuperLink.
    """
    authority_key = ec.generate_private_key(ec.SECP384R1())
    authority_name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "Echelon authority")])
    authority = _certificate(
        authority_name,
        authority_key.public_key(),
        authority_name,
        authority_key,
        [(x509.BasicConstraints(True, 0), True)],
    )
    key = ec.generate_private_key(ec.SECP384R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, hosts[0])])
    extensions: list[tuple[x509.ExtensionType, bool]] = [
        (x509.SubjectAlternativeName([_general_name(host) for host in hosts]), False),
        (x509.BasicConstraints(False, None), True),
        (x509.AuthorityKeyIdentifier.from_issuer_public_key(authority_key.public_key()), False),
    ]
    server = _certificate(name, key.public_key(), authority_name, authority_key, extensions)
    certificates = Certificates(folder / "ca.crt", folder / "server.pem", folder / "server.key")
    certificates.authority.write_bytes(authority.public_bytes(serialization.Encoding.PEM))
    certificates.server.write_bytes(server.public_bytes(serialization.Encoding.PEM))
    _write_private(certificates.server_key, key, serialization.PrivateFormat.PKCS8)
    return certificates


def make_node_key(path: Path) -> Path:
    """Write the key pair of a SuperNode, as ``ssh-keygen -t ecdsa -b 384`` does; return the path of the public key."""
    key = ec.generate_private_key(ec.SECP384R1())
    _write_private(path, key, serialization.PrivateFormat.OpenSSH)
    public = path.with_name(f"{path.name}.pub")
    public.write_bytes(
        key.public_key().public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH) + b"\n"
    )
    return public


def _certificate(
    subject: x509.Name,
    public_key: ec.EllipticCurvePublicKey,
    issuer: x509.Name,
    issuer_key: ec.EllipticCurvePrivateKey,
    extensions: list[tuple[x509.ExtensionType, bool]],
) -> x509.Certificate:
    now = datetime.now(UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public_key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(minutes=5))
        .not_valid_after(now + LIFETIME)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), False)
    )
    for extension, critical in extensions:
        builder = builder.add_extension(extension, critical)
    return builder.sign(issuer_key, hashes.SHA256())


def _general_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _write_private(path: Path, key: ec.EllipticCurvePrivateKey, layout: serialization.PrivateFormat) -> None:
    path.unlink(missing_ok=True)  # an existing file would keep its own mode
    path.touch(mode=0o600)
    path.write_bytes(key.private_bytes(serialization.Encoding.PEM, layout, serialization.NoEncryption()))
