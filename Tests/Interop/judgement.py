"""What `culvert diagnose` says, for tests: the code of a cause counts, and page and JSON must agree."""

import json

from culvert_lab.shell import eventually
from culvert_lab.traffic import ping

EVIDENCE = "packets went both ways"


def verdict(one, *words):
    """What `diagnose --json` says; the page must agree with it."""
    done = one.client("diagnose", *words, "--json", check=False)
    told = json.loads(done.stdout)
    assert done.returncode == (1 if told["verdict"] == "found" else 0), done
    assert (told["problems"] + told["warnings"] > 0) == (told["verdict"] == "found"), told
    return told


def codes(told):
    return {cause["code"] for cause in told["gateway"] + [c for one in told["connections"] for c in one["causes"]]}


def causes(told, code):
    return [cause for one in told["connections"] for cause in one["causes"] if cause["code"] == code] + \
        [cause for cause in told["gateway"] if cause["code"] == code]


def wait_code(one, code, timeout=15):
    """Asks until the code is there; the cause."""
    seen = {}

    def there():
        seen["told"] = verdict(one)
        return causes(seen["told"], code)

    return eventually(there, timeout=timeout, every=0.5, what=lambda: f"{one.role} does not find {code}: {seen['told']}")[0]


def assert_cured(pair, lab):
    """Packets pass, and both ends say that nothing is wrong because they do."""
    assert ping(lab, "host-east", lab.west.host, count=5, patient=True).received == 5
    for one in (pair.east, pair.west):
        def works():
            return verdict(one)["verdict"] == "works"
        eventually(works, timeout=20, every=0.5, what=lambda: f"{one.role}: {verdict(one)}")
        page = one.client("diagnose").stdout
        assert "Nothing is wrong: " in page and EVIDENCE in page, page
