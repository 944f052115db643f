"""Certificates made by somebody else's library, and strongSwan's directory for them."""

import datetime

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa
from cryptography.x509.oid import NameOID

KINDS = {
    "rsa": lambda: rsa.generate_private_key(65537, 2048),
    "p256": lambda: ec.generate_private_key(ec.SECP256R1()),
    "p384": lambda: ec.generate_private_key(ec.SECP384R1()),
    "p521": lambda: ec.generate_private_key(ec.SECP521R1()),
    "ed25519": ed25519.Ed25519PrivateKey.generate,
    "ed448": ed448.Ed448PrivateKey.generate,
}
DAY = datetime.timedelta(days=1)


def now():
    return datetime.datetime.now(datetime.timezone.utc)


def subject(name):
    return x509.Name([
        x509.NameAttribute(NameOID.COUNTRY_NAME, "DE"), x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Culvert"),
        x509.NameAttribute(NameOID.COMMON_NAME, name),
    ])


def pem(thing):
    return thing.public_bytes(serialization.Encoding.PEM)


def private_pem(key):
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())


def public_pem(key):
    return key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)


class Authority:
    """A certificate authority; with an issuer, an intermediate one."""

    def __init__(self, name, issuer=None):
        self.key = KINDS["p256"]()
        self.name = subject(name)
        signer = issuer or self
        self.certificate = (
            self.builder(self.name, signer.name, self.key, (-DAY, 90 * DAY))
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .add_extension(usage(key_cert_sign=True, crl_sign=True), critical=True)
            .sign(signer.key, hashes.SHA256()))

    @staticmethod
    def builder(name, issuer, key, valid):
        return (
            x509.CertificateBuilder().subject_name(name).issuer_name(issuer).public_key(key.public_key())
            .serial_number(x509.random_serial_number()).not_valid_before(now() + valid[0]).not_valid_after(now() + valid[1])
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False))

    def issue(self, name, kind="p256", valid=(-DAY, 90 * DAY)):
        """A key and its certificate for a domain name."""
        key = KINDS[kind]()
        certificate = (
            self.builder(subject(name), self.name, key, valid)
            .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
            .add_extension(usage(digital_signature=True), critical=True)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self.key.public_key()), critical=False)
            .sign(self.key, hashes.SHA256()))
        return key, certificate

    def revocations(self, certificates):
        builder = x509.CertificateRevocationListBuilder().issuer_name(self.name).last_update(now() - DAY).next_update(now() + DAY)
        builder = builder.add_extension(x509.CRLNumber(1), critical=False).add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(self.key.public_key()), critical=False)
        for certificate in certificates:
            builder = builder.add_revoked_certificate(
                x509.RevokedCertificateBuilder().serial_number(certificate.serial_number).revocation_date(now() - DAY).build())
        return builder.sign(self.key, hashes.SHA256())


def usage(**set_ones):
    names = ["digital_signature", "content_commitment", "key_encipherment", "data_encipherment", "key_agreement",
             "key_cert_sign", "crl_sign", "encipher_only", "decipher_only"]
    return x509.KeyUsage(**{name: set_ones.get(name, False) for name in names})


class Store:
    """A folder of files that both daemons read; strongSwan's part has the shape of /etc/swanctl."""

    def __init__(self, directory):
        self.directory = directory
        for name in ("x509", "x509ca", "x509crl", "x509aa", "x509ac", "x509ocsp", "pubkey", "private", "rsa", "ecdsa", "bliss",
                     "pkcs8", "pkcs12"):
            (directory / name).mkdir(parents=True, exist_ok=True)

    def write(self, name, octets):
        path = self.directory / name
        path.write_bytes(octets)
        path.chmod(0o600)
        return str(path)
