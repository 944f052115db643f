#!/usr/bin/env python3
"""Writes cases.json: of each end entity of NIST PKITS whether its path is valid with the default settings, and the certificates that a
path to the trust anchor may need. The verdict is in the name of the test, but for sections 4.8 and 4.12, where PKITS.pdf says it."""
import json, pathlib, re, warnings
from cryptography import x509

warnings.filterwarnings("ignore")
here = pathlib.Path(__file__).parent
# 4.8 and 4.12.3, "default settings" (initial-policy-set any-policy, nothing required, nothing inhibited).
NEUTRAL = {
    "AllCertificatesNoPoliciesTest2EE": True, "DifferentPoliciesTest3EE": True, "DifferentPoliciesTest4EE": False,
    "DifferentPoliciesTest5EE": False, "OverlappingPoliciesTest6EE": True, "DifferentPoliciesTest7EE": False,
    "DifferentPoliciesTest8EE": False, "DifferentPoliciesTest9EE": False, "AllCertificatesSamePoliciesTest10EE": True,
    "AllCertificatesanyPolicyTest11EE": True, "DifferentPoliciesTest12EE": False, "AllCertificatesSamePoliciesTest13EE": True,
    "AnyPolicyTest14EE": True, "UserNoticeQualifierTest15EE": True, "UserNoticeQualifierTest16EE": True,
    "UserNoticeQualifierTest17EE": True, "UserNoticeQualifierTest18EE": True, "UserNoticeQualifierTest19EE": True,
    "CPSPointerQualifierTest20EE": True, "inhibitAnyPolicyTest3EE": True,
}


def text(name):
    return re.sub(r"\s+", " ", name.rfc4514_string()).lower().strip()


def extension(certificate, kind):
    try:
        return certificate.extensions.get_extension_for_class(kind).value
    except Exception:
        return None


certificates = {}
for path in sorted((here / "certs").glob("*.crt")):
    try:
        certificates[path.stem] = x509.load_der_x509_certificate(path.read_bytes())
    except ValueError:
        # DSA keys without parameters of their own are not read by this library.
        assert "DSA" in path.stem, path
authorities = {n: c for n, c in certificates.items() if not n.endswith("EE") and n != "TrustAnchorRootCertificate"}


def above(certificate):
    """Who may have issued it or its revocation list, by name or key identifier."""
    names = {text(certificate.issuer)}
    for point in extension(certificate, x509.CRLDistributionPoints) or []:
        names |= {text(n.value) for n in point.crl_issuer or [] if isinstance(n, x509.DirectoryName)}
    key = extension(certificate, x509.AuthorityKeyIdentifier)
    for name, other in authorities.items():
        subject = extension(other, x509.SubjectKeyIdentifier)
        same_key = key and subject and key.key_identifier == subject.digest
        if text(other.subject) in names or same_key:
            yield name, other


cases = []
for name, certificate in certificates.items():
    if not name.endswith("EE"):
        continue
    known, queue = {}, [certificate]
    while queue:
        for one, other in above(queue.pop()):
            if one not in known:
                known[one] = other
                queue.append(other)
    valid = NEUTRAL[name] if name in NEUTRAL else name.startswith("Valid")
    cases.append({"name": name, "valid": valid, "certificates": sorted(known)})
known = {c["name"] for c in cases}
for name in sorted(p.stem for p in (here / "certs").glob("*EE.crt") if p.stem not in known):
    cases.append({"name": name, "valid": name.startswith("Valid"), "certificates": ["DSACACert", "DSAParametersInheritedCACert"]})
lines = ",\n".join(json.dumps(c) for c in cases)
(here / "cases.json").write_text(f"[\n{lines}\n]\n")
