"""Running commands: output captured, failures told in one sentence with the command's own last words."""

import os
import shlex
import subprocess
import sys
import time


class LabError(Exception):
    """Something the laboratory needed did not happen; the text is one sentence for a person."""


def run(argv, *, check=True, timeout=60, stdin=None, env=None, cwd=None):
    """Runs `argv` to its end and returns the CompletedProcess with text output; raises LabError when it fails and `check`."""
    shown = " ".join(shlex.quote(str(word)) for word in argv)
    try:
        done = subprocess.run(
            [str(word) for word in argv], input=stdin, capture_output=True, text=True, errors="replace",
            timeout=timeout, env=env, cwd=cwd)
    except FileNotFoundError as error:
        raise LabError(f"cannot run `{shown}`: {error.filename} is not installed") from error
    except subprocess.TimeoutExpired as error:
        raise LabError(f"`{shown}` did not end within {timeout} s") from error
    if check and done.returncode != 0:
        words = (done.stderr.strip() or done.stdout.strip() or "no output").splitlines()
        raise LabError(f"`{shown}` failed with status {done.returncode}: {' / '.join(words[-6:])}")
    return done


def require_root():
    """Namespaces and AF_XDP need root: says so before anything is half made."""
    if os.geteuid() != 0:
        raise LabError("this needs root (network namespaces, AF_XDP): run it again with sudo")


def eventually(question, *, timeout, every=0.1, what):
    """Asks `question` until its answer is true and returns the answer; raises LabError naming `what` after `timeout` seconds."""
    deadline = time.monotonic() + timeout
    while True:
        answer = question()
        if answer:
            return answer
        if time.monotonic() > deadline:
            raise LabError(f"{what() if callable(what) else what} (waited {timeout} s)")
        time.sleep(every)


class Paint:
    """ANSI colours, only when the stream is a terminal and NO_COLOR is unset."""

    def __init__(self, stream=sys.stdout):
        self.on = stream.isatty() and not os.environ.get("NO_COLOR")

    def __call__(self, code, text):
        return f"\x1b[{code}m{text}\x1b[0m" if self.on else text

    def bold(self, text):
        return self("1", text)

    def green(self, text):
        return self("32", text)

    def red(self, text):
        return self("31", text)

    def dim(self, text):
        return self("2", text)
