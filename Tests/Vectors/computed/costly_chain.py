#!/usr/bin/env python3
"""Writes costly-chain.pem: eight certificates that nobody issued, with RSA keys of 3072 bits whose public exponents are as long, so that
verifying with one of them takes two hundred times as long as usual; the last says that `O=Example, CN=Test CA` issued it. Behind them a
revocation list of each CA. And costly-chain.key, the first one's private key."""
import datetime, math, pathlib, secrets, warnings
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import NameOID

warnings.filterwarnings("ignore")
here = pathlib.Path(__file__).parent
START, END = datetime.datetime(2025, 1, 1), datetime.datetime(2045, 1, 1)


def key():
    numbers = rsa.generate_private_key(65537, 3072).private_numbers()
    p, q = numbers.p, numbers.q
    order = math.lcm(p - 1, q - 1)
    while True:
        e = secrets.randbits(3071) | 1 << 3070 | 1
        if e < p * q and math.gcd(e, order) == 1:
            break
    d = pow(e, -1, order)
    public = rsa.RSAPublicNumbers(e, p * q)
    private = rsa.RSAPrivateNumbers(p, q, d, d % (p - 1), d % (q - 1), pow(q, -1, p), public)
    return private.private_key(unsafe_skip_rsa_key_validation=True)


def name(common):
    return x509.Name([x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Example"), x509.NameAttribute(NameOID.COMMON_NAME, common)])


names = [name("west")] + [name(f"Stranger {n}") for n in range(1, 8)] + [name("Test CA")]
keys = [key() for _ in range(8)]
pem = b""
for n in range(8):
    # The last one's signature is no CA's.
    signer = keys[min(n + 1, 7)]
    builder = (x509.CertificateBuilder().subject_name(names[n]).issuer_name(names[n + 1]).public_key(keys[n].public_key())
               .serial_number(100 + n).not_valid_before(START).not_valid_after(END)
               .add_extension(x509.BasicConstraints(ca=n > 0, path_length=None), critical=True))
    if n == 0:
        builder = builder.add_extension(x509.SubjectAlternativeName([x509.DNSName("west.example")]), critical=False)
    pem += builder.sign(signer, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
for n in range(1, 8):
    builder = x509.CertificateRevocationListBuilder().issuer_name(names[n]).last_update(START).next_update(END)
    pem += builder.sign(keys[n], hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
(here / "costly-chain.pem").write_bytes(pem)
(here / "costly-chain.key").write_bytes(keys[0].private_bytes(
    serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()))
