"""The laboratory: five network namespaces, the daemons in them, and what is measured there.

Standard library only, so that `scripts/demo` and `scripts/lab` run on a bare Debian 12; the tests add scapy on top.

    shell.py      running commands, one sentence per failure
    topology.py   namespaces, links, addresses, NAT
    daemons.py    processes that live in a namespace: Culvert, strongSwan
    capture.py    what crossed the wire
    traffic.py    ping, iperf3 and their results
    cli.py        the `scripts/lab` command
    demo.py       the `scripts/demo` command
"""
