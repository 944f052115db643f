"""Programs of a newer Debian beside this system's: its strongSwan and its OpenSSL know ML-KEM.

`scripts/test` unpacks them under ROOT and installs nothing. A process gets the newer /usr in the place of ours, in a mount
namespace of its own; everything else it sees as it is.
"""

import pathlib
import re
import shutil
import tempfile

from .shell import run

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]
ROOT = REPOSITORY / ".peers" / "forky"


def command():
    """The words before a command that is to run with the newer /usr; the process stays the one that was started."""
    return ["unshare", "--mount", "sh", "-c", 'mount --bind "$0" /usr && exec "$@"', str(ROOT / "usr")]


def environment(binary):
    """What `binary`, built here, needs besides to run there: a folder with those of its libraries that the newer Debian's lacks.

    C and C++ libraries, OpenSSL and whatever else is there are the newer ones.
    """
    has = {path.name for path in ROOT.glob("usr/lib/**/*.so*")}
    brought = ROOT / "brought"
    brought.mkdir(exist_ok=True)
    for name, path in re.findall(r"(\S+) => (\S+) \(", run(["ldd", binary]).stdout):
        if name not in has and pathlib.Path(path).resolve().is_relative_to("/usr"):
            bring(pathlib.Path(path), brought / name)
    return {"LD_LIBRARY_PATH": str(brought)}


def bring(library, place):
    """Copies a library unless it is there; as a new file, for a process may be running with the old one."""
    if place.exists() and place.stat().st_mtime == library.stat().st_mtime:
        return
    with tempfile.TemporaryDirectory(dir=place.parent) as directory:
        pathlib.Path(shutil.copy2(library, directory)).replace(place)
