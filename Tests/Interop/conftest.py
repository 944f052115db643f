"""Fixtures of the interop tests: laboratories, and what their daemons said when a test fails."""

import itertools
import os
import pathlib
import sys

import pytest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / "scripts"))

from culvert_lab import topology  # noqa: E402
from culvert_lab.daemons import Culvert, culvert_binary  # noqa: E402

LOG_LINES_SHOWN = 40
# Files whose tests load the machine, or measure: one at a time, but for tests that are marked `waits`. The others mostly wait
# and run side by side.
LOADING = ("test_bench", "test_esp_second_opinion", "test_flood", "test_forwarding", "test_hostile", "test_ipv6",
           "test_kernel_peer", "test_lifetimes", "test_native", "test_paths", "test_strongswan")
TEST_SECONDS = 180

numbers = itertools.count(1)
standing = []


def pytest_addoption(parser):
    parser.addoption("--full", action="store_true", help="also the long tests")


def pytest_configure(config):
    config.addinivalue_line("markers", "full: long, only with --full")
    config.addinivalue_line("markers", "load: loads the machine or measures; runs with nothing beside it")
    config.addinivalue_line("markers", "waits: mostly waits, in a file whose tests load the machine")
    config.addinivalue_line("markers", "peer_only: needs no culvert binary")


def pytest_collection_modifyitems(config, items):
    for item in items:
        if item.path.stem in LOADING and not item.get_closest_marker("waits"):
            item.add_marker(pytest.mark.load)
        if not item.get_closest_marker("timeout"):
            item.add_marker(pytest.mark.timeout(TEST_SECONDS))
        if item.get_closest_marker("full") and not config.getoption("--full"):
            item.add_marker(pytest.mark.skip(reason="only with --full"))


def pytest_sessionstart(session):
    if os.geteuid() != 0:
        pytest.exit("the interop tests need root: scripts/test --only interop", returncode=4)
    # Once, before anybody makes laboratories.
    if not hasattr(session.config, "workerinput"):
        topology.sweep()


@pytest.fixture(scope="session", autouse=True)
def binary(request):
    """The culvert under test; the run ends at once when it is missing, unless only strongSwan tests are asked for."""
    if all(item.get_closest_marker("peer_only") for item in request.session.items):
        return None
    return culvert_binary()


def make(wire="bridge", queues=1):
    """A standing laboratory with a name of its own."""
    lab = topology.Lab(f"t{os.getpid()}n{next(numbers)}", wire, queues)
    lab.up()
    standing.append(lab)
    return lab


def remove(lab):
    lab.down()
    standing.remove(lab)


@pytest.fixture
def lab():
    """A laboratory for one test."""
    made = make()
    yield made
    remove(made)


@pytest.fixture(scope="module")
def shared_lab():
    """A laboratory for all tests of a file."""
    made = make()
    yield made
    remove(made)


@pytest.fixture
def labs():
    """Makes laboratories of any kind for one test: `labs("nat-east", queues=2)`."""
    made = []

    def one(*arguments, **named):
        made.append(make(*arguments, **named))
        return made[-1]

    yield one
    for lab in made:
        remove(lab)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    report = yield
    if report.failed:
        for lab in standing:
            for path in sorted(lab.directory.glob("*/log")):
                lines = path.read_text(errors="replace").splitlines()[-LOG_LINES_SHOWN:]
                report.sections.append((f"log of {path.parent.name} in {lab.instance}", "\n".join(lines)))
            for daemon in lab.daemons:
                if isinstance(daemon, Culvert) and daemon.alive():
                    page = daemon.client("status", check=False).stdout
                    report.sections.append((f"status of {daemon.role} in {lab.instance}", page))
    return report
