#!/usr/bin/env python3
"""Writes mlkem.json: ML-KEM (FIPS 203) by kyber-py, a Python implementation of its own; `pip install kyber-py`.

Per parameter set two exchanges and one whose ciphertext was changed, which gives the secret of implicit rejection.
"""

import hashlib
import json
import pathlib

from kyber_py.ml_kem import ML_KEM_512, ML_KEM_768, ML_KEM_1024


def octets(label, count):
    return hashlib.shake_256(label.encode()).digest(count)


def cases():
    for method, kem in ((35, ML_KEM_512), (36, ML_KEM_768), (37, ML_KEM_1024)):
        for number in range(3):
            seed = octets(f"seed {method} {number}", 64)
            key, private = kem._keygen_internal(seed[:32], seed[32:])
            secret, ciphertext = kem._encaps_internal(key, octets(f"message {method} {number}", 32))
            is_changed = number == 2
            if is_changed:
                ciphertext = bytes([ciphertext[0] ^ 1]) + ciphertext[1:]
                secret = kem.decaps(private, ciphertext)
            assert kem.decaps(private, ciphertext) == secret
            yield {"method": method, "seed": seed.hex(), "key": key.hex(), "ciphertext": ciphertext.hex(),
                   "secret": secret.hex(), "isChanged": is_changed}


if __name__ == "__main__":
    target = pathlib.Path(__file__).with_suffix(".json")
    target.write_text(json.dumps({"cases": list(cases())}, indent=1) + "\n")
