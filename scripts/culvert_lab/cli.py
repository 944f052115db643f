"""The `scripts/lab` command: makes the laboratory, runs things in it, removes it."""

import argparse
import os
import sys

from .shell import LabError, require_root
from .topology import ROLES, STATE_DIRECTORY, WIRES, Lab, instances, sweep

DESCRIPTION = """\
Five network namespaces on this machine, joined as two sites with a wire between them:

    host-east ── gw-east ── wire ── gw-west ── host-west
    10.1.0.2     192.0.2.1          192.0.2.2    10.2.0.2
"""

EXAMPLES = """\
examples:
    scripts/lab up                               the laboratory `lab`, wire is a bridge
    scripts/lab up --instance two --wire nat-east --queues 2
    scripts/lab exec host-east ping -c 3 10.2.0.2
    scripts/lab exec gw-east culvert run --config examples/two-site/east.yaml --socket /run/east.sock
    scripts/lab exec wire tcpdump -n -i east
    scripts/lab list
    scripts/lab down
"""


def parse(argv):
    parser = argparse.ArgumentParser(
        prog="scripts/lab", description=DESCRIPTION, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    up = commands.add_parser("up", help="make it (anew, when it is there already)")
    up.add_argument("--wire", choices=WIRES, default="bridge", help="what joins the gateways (default: bridge)")
    up.add_argument("--queues", type=int, choices=range(1, 9), default=1, metavar="N",
                    help="queues per veth, 1 to 8 (default: 1)")
    down = commands.add_parser("down", help="end what runs in it and remove it")
    down.add_argument("--all", action="store_true", help="every instance on this machine")
    down.add_argument("--stale", action="store_true", help="instances whose maker has died")
    execute = commands.add_parser("exec", help="run a command in one of its namespaces")
    execute.add_argument("role", choices=ROLES, metavar="ROLE", help=", ".join(ROLES))
    execute.add_argument("words", nargs=argparse.REMAINDER, metavar="COMMAND", help="what to run there")
    commands.add_parser("list", help="the instances that are up")
    for command in (up, down, execute):
        command.add_argument("--instance", default="lab", metavar="NAME", help="which laboratory (default: lab)")
    return parser.parse_args(argv)


def main(argv=None):
    options = parse(argv)
    try:
        return act(options)
    except LabError as error:
        print(f"lab: {error}", file=sys.stderr)
        return 1


def act(options):
    """Does what the command line asked; returns the exit status."""
    if options.command == "list":
        print("\n".join(instances()))
        return 0
    require_root()
    if options.command == "down" and options.stale:
        for name in sweep():
            print(f"removed {name}")
        return 0
    if options.command == "down":
        for name in instances() if options.all else [options.instance]:
            Lab(name).down()
        return 0
    lab = Lab(options.instance, getattr(options, "wire", "bridge"), getattr(options, "queues", 1))
    if options.command == "up":
        lab.up()
        (STATE_DIRECTORY / lab.instance / "keep").touch()
        return 0
    if not options.words:
        raise LabError("exec needs a command, as in: scripts/lab exec gw-east ip address")
    if options.instance not in instances():
        raise LabError(f"there is no laboratory {options.instance}: make it with `scripts/lab up --instance {options.instance}`")
    words = ["ip", "netns", "exec", lab.namespace(options.role), *options.words]
    os.execvp(words[0], words)


if __name__ == "__main__":
    sys.exit(main())
