"""The `scripts/test` command, after the installing: runs every part, counts, and says so in one last line."""

import argparse
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree

from .daemons import REPOSITORY
from .shell import Paint

# `simulation` is part of `unit`; alone it is for many seeds.
ALONE = ("simulation",)
# Only with --full or by name: the unit tests again without the optimiser, and libFuzzer for a minute each (the unit tests run the
# harnesses over their corpora).
LONG = ("debug", "fuzz")
PARTS = ("imports", "style", "build", "hot-path", "interop", "demo", "unit")
# The unit tests run optimised, as the product is built, with the assertions of a debug build; in a folder of their own, so that
# neither build takes away what the other has compiled.
SEEDS = "4000"  # of the simulation in a usual run
OPTIMISED = ("-c", "release", "--scratch-path", ".build-tests", "-Xswiftc", "-assert-config", "-Xswiftc", "Debug")
SUMMARY = re.compile(r"Test run with (\d+) tests?(?: in \d+ suites?)? (passed|failed)")
TEST_ENDED = re.compile(r"^\S*\s*Test (?!run with)(?P<name>.+?) (?:with \d+ test cases? )?(?P<how>passed|failed) after ")
XCTEST_SUMMARY = re.compile(r"^Executed (\d+) tests?, with (\d+) failures?")


def count_swift_tests(output, status):
    """(passed, failed) of a `swift test` run, from swift-testing's summary; a crash before it counts as one failure more."""
    passed = failed = 0
    ended = {"passed": set(), "failed": set()}
    for line in re.sub(r"\x1b\[[0-9;]*m", "", output).splitlines():
        match = TEST_ENDED.match(line.strip())
        if match:
            ended[match["how"]].add(match["name"])
    summaries = SUMMARY.findall(output)
    for total, how in summaries:
        bad = min(len(ended["failed"]) or 1, int(total) or 1) if how == "failed" else 0
        passed, failed = passed + max(int(total) - bad, 0), failed + bad
    xctest = [XCTEST_SUMMARY.match(line.strip()) for line in output.splitlines()]
    totals = [(int(match[1]), int(match[2])) for match in xctest if match]
    if totals:  # nested suites repeat their numbers, the widest is the whole
        total, bad = max(totals)
        passed, failed = passed + total - bad, failed + bad
    if not summaries:
        passed, failed = passed + len(ended["passed"]), failed + len(ended["failed"])
    if status != 0 and failed == 0:
        failed += 1
    return passed, failed


def count_junit(path):
    """(passed, failed, skipped names) of a pytest run; a report that is missing counts as one failure."""
    try:
        root = xml.etree.ElementTree.parse(path).getroot()
    except (OSError, xml.etree.ElementTree.ParseError):
        return 0, 1, []
    passed = failed = 0
    skipped = []
    for case in root.iter("testcase"):
        if case.find("failure") is not None or case.find("error") is not None:
            failed += 1
        elif case.find("skipped") is not None:
            skipped.append(f"{case.get('name')}: {case.find('skipped').get('message')}")
        else:
            passed += 1
    return passed, failed, skipped


class Suite:
    """Runs the parts one after the other and keeps the score."""

    def __init__(self, options):
        self.options, self.paint = options, Paint()
        self.rows, self.passed, self.failed = [], 0, 0

    def run(self):
        wanted = self.options.only or PARTS + (LONG if self.options.full else ())
        for part in PARTS + LONG + ALONE:
            if part not in wanted:
                continue
            print(f"{self.paint.bold('==>')} {part}", flush=True)
            start = time.monotonic()
            passed, failed = getattr(self, part.replace("-", "_"))()
            self.rows.append((part, passed, failed, time.monotonic() - start))
            self.passed, self.failed = self.passed + passed, self.failed + failed
        print(f"\n{'part':10}{'passed':>8}{'failed':>8}{'seconds':>9}")
        for part, passed, failed, seconds in self.rows:
            line = f"{part:10}{passed:8}{failed:8}{seconds:9.0f}"
            print(self.paint.red(line) if failed else line)
        total = f"{self.passed} passed, {self.failed} failed"
        print(self.paint.red(total) if self.failed else self.paint.green(total))
        return 1 if self.failed or not self.passed else 0

    # Parts: each returns (passed, failed)

    def imports(self):
        return self.simple(["scripts/check-imports"])

    def style(self):
        return self.simple(["scripts/check-style"])

    def build(self):
        return self.simple(["swift", "build", "-c", "release", "--product", "culvert"])

    def hot_path(self):
        return self.simple(["scripts/check-hot-path"])

    def demo(self):
        return self.simple([*self.root(), "env", f"PATH={os.environ['PATH']}", f"CULVERT={self.binary()}",
                            "scripts/demo", "--seconds", "1"])

    def unit(self):
        return self.swift_test(OPTIMISED, self.options.seeds or (None if self.options.full else SEEDS))

    def debug(self):
        return self.swift_test([])

    def fuzz(self):
        return self.simple(["scripts/fuzz", "--seconds", "60"])

    def simulation(self):
        return self.swift_test([*OPTIMISED, "--filter", "SeedTests"], self.options.seeds)

    def interop(self):
        """First what mostly waits, three files side by side, then what loads the machine or measures, alone."""
        passed, failed, skipped = 0, 0, []
        for words in (["-m", "not load", "-n", "3", "--dist", "loadfile"], ["-m", "load"]):
            outcome = self.pytest(words)
            passed, failed, skipped = passed + outcome[0], failed + outcome[1], skipped + outcome[2]
        for name in skipped:
            print(f"skipped {name}")
        return passed, failed

    # Their tools

    def pytest(self, selection):
        """(passed, failed, skipped names) of the interop tests that `selection` takes."""
        with tempfile.TemporaryDirectory(prefix="culvert-test-") as directory:
            report = pathlib.Path(directory) / "interop.xml"
            words = [*self.root(), "env", f"CULVERT={self.binary()}", f"PYTHONPATH={REPOSITORY / 'scripts'}",
                     f"PATH={os.environ['PATH']}", sys.executable, "-m", "pytest", "-p", "no:cacheprovider",
                     "Tests/Interop", *selection, f"--junitxml={report}", "-ra", "--durations=10"]
            if "STRONGSWAN" in os.environ:  # sudo lets nothing through by itself
                words.insert(words.index("env") + 1, f"STRONGSWAN={os.environ['STRONGSWAN']}")
            words += ["--full"] if self.options.full else []
            subprocess.run([*words, *self.options.pytest], cwd=REPOSITORY)
            return count_junit(report)

    def binary(self):
        return os.environ.get("CULVERT") or REPOSITORY / ".build" / "release" / "culvert"

    @staticmethod
    def root():
        return [] if os.geteuid() == 0 else ["sudo"]

    @staticmethod
    def simple(words):
        """A command that passes or fails as a whole; its output goes through."""
        return (1, 0) if subprocess.run(words, cwd=REPOSITORY).returncode == 0 else (0, 1)

    def swift_test(self, words, seeds=None):
        """`swift test`, shown as it goes and counted. `seeds` of the simulation: its own number when None."""
        environment = {**os.environ, "CULVERT_SEEDS": seeds} if seeds else None
        process = subprocess.Popen(["swift", "test", *words], cwd=REPOSITORY, stdout=subprocess.PIPE, env=environment,
                                   stderr=subprocess.STDOUT, text=True, errors="replace")
        lines = []
        for line in process.stdout:
            lines.append(line)
            if not re.search(r"Test .* (started|passed after)|^\[\d+/\d+\]", line):
                print(line, end="", flush=True)
        return count_swift_tests("".join(lines), process.wait())


def parse(argv):
    """Options; what follows `--` goes to pytest."""
    words, rest = (argv[:argv.index("--")], argv[argv.index("--") + 1:]) if "--" in argv else (argv, [])
    parser = argparse.ArgumentParser(prog="scripts/test")
    parser.add_argument("--full", action="store_true")
    parser.add_argument("--only", default="")
    parser.add_argument("--seeds")
    options = parser.parse_args(words)
    options.only = [part for part in options.only.split(",") if part]
    options.pytest = rest
    parts = PARTS + LONG + ALONE
    unknown = set(options.only) - set(parts)
    if unknown:
        parser.error(f"there is no part {', '.join(sorted(unknown))}; the parts are {', '.join(parts)}")
    if options.seeds and not re.fullmatch(r"\d+|\d+-\d+|=\d+(,\d+)*", options.seeds):
        parser.error(f"--seeds {options.seeds}: write a number, a range such as 100-200, or =17 for one seed")
    return options


if __name__ == "__main__":
    if not shutil.which("swift"):
        sys.exit("scripts/test: swift is not on the PATH")
    sys.exit(Suite(parse(sys.argv[1:])).run())
