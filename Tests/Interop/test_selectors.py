"""Several child SAs inside one configured child: strongSwan makes one for each pair of networks, as many gateways do."""

from checks import assert_ping
from culvert_lab.daemons import StrongSwan, swanctl_conf
from culvert_lab.shell import eventually
from culvert_lab.traffic import ping
from gateways import IDENTITY, SECRET, gateway

SECOND = "10.3.0"


def second_network(lab):
    """10.3.0.0/24 behind the west gateway; its host is the one that is there."""
    lab.ip("host-west", "address", "add", f"{SECOND}.2/24", "dev", "eth0")
    lab.ip("gw-west", "address", "add", f"{SECOND}.1/24", "dev", "lan0")


def peer_with_two_children(lab):
    text = swanctl_conf(
        local=lab.west.underlay, remote=lab.east.underlay, local_id=IDENTITY["west"], remote_id=IDENTITY["east"],
        local_ts=lab.west.subnet, remote_ts=lab.east.subnet, psk=SECRET, ike="aes256gcm16-prfsha256-x25519",
        child_extra=f"""}}
                    more {{
                        local_ts = {SECOND}.0/24
                        remote_ts = {lab.east.subnet}
                        esp_proposals = aes256gcm16-noesn""")
    return StrongSwan(lab, "gw-west", text)


def reaches(lab, destination):
    return ping(lab, "host-east", destination, count=2, wait_seconds=1).received == 2


def test_each_of_several_sas_carries_its_own_traffic_through_rekeys_and_deletes(lab):
    second_network(lab)
    theirs = peer_with_two_children(lab).start()
    ours = gateway(lab, "east", child={"remote_subnets": [lab.west.subnet, f"{SECOND}.0/24"]}).start()
    ours.wait_installed("west")
    both = (lab.west.host, f"{SECOND}.2")
    for destination in both:
        eventually(lambda: reaches(lab, destination), timeout=10, what=f"nothing comes back from {destination}")
    child = ours.connection("west")["children"][0]
    assert sorted(child["remote_subnets"]) == [lab.west.subnet, f"{SECOND}.0/24"] and child["reason"] is None
    assert_ping(lab, "east", count=5)

    for name in ("net", "more"):
        theirs.swanctl("--rekey", "--child", name)
        eventually(lambda: "REKEYED" not in theirs.sas(), timeout=10, what=lambda: f"the rekey hangs: {theirs.sas()}")
        assert all(reaches(lab, destination) for destination in both), f"after the rekey of {name}"

    theirs.swanctl("--terminate", "--child", "more", "--timeout", "5")
    assert reaches(lab, lab.west.host), "the other SA of the child goes on"
    eventually(lambda: reaches(lab, both[1]), timeout=25, what="what the peer deleted is not asked for again")


def test_what_the_peer_does_not_take_is_named(lab):
    theirs = StrongSwan(lab, "gw-west", swanctl_conf(
        local=lab.west.underlay, remote=lab.east.underlay, local_id=IDENTITY["west"], remote_id=IDENTITY["east"],
        local_ts=lab.west.subnet, remote_ts=lab.east.subnet, psk=SECRET, ike="aes256gcm16-prfsha256-x25519"))
    theirs.start()
    ours = gateway(lab, "east", child={"remote_subnets": [lab.west.subnet, f"{SECOND}.0/24"]}).start()
    ours.wait_installed("west")
    assert_ping(lab, "east", count=2)
    eventually(lambda: f"{SECOND}.0/24" in (ours.connection("west")["children"][0]["reason"] or ""), timeout=10,
               what=lambda: f"nothing is said: {ours.connection('west')['children'][0]}")
    assert ours.connection("west")["children"][0]["state"] == "installed"
