/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * What the XDP program and user space agree on: the maps' keys and values, and the counters. Included by both, so the
 * layouts cannot drift apart. Addresses are in network byte order, as the packet carries them.
 */
#pragma once

#include <linux/types.h>

#define CULVERT_MAX_PORTS 64
#define CULVERT_MAX_QUEUES 64 /* receive queues per port that can have a socket */
#define CULVERT_MAX_LOCAL_ADDRESSES 1024
#define CULVERT_MAX_PREFIXES 65536
#define CULVERT_MAX_IKE_SOURCES 16384
#define CULVERT_MAX_IKE_SAS 65536
#define CULVERT_MAX_PEERS 65536
#define CULVERT_MAX_IPV6_EXTENSIONS 4
#define CULVERT_MAX_VLAN_TAGS 2 /* priority tags (VLAN 0) looked through */

/* Roles of a port, or-ed together. */
#define CULVERT_ROLE_UNDERLAY 1u
#define CULVERT_ROLE_PROTECTED 2u

/* Map `ports`: interface index -> this. */
struct culvert_port {
    __u32 index; /* its row of the map `xsks`: key = index * CULVERT_MAX_QUEUES + receive queue */
    __u32 roles;
    __u8 mac[6]; /* frames for another unicast address are not ours; all zero: not checked */
    __u16 reserved;
};

/* Key of the longest-prefix map `prefixes`. */
struct culvert_prefix {
    __u32 length;  /* bits, 0 to 32 */
    __be32 address;
};

#define CULVERT_STEER_NOTHING 0u
#define CULVERT_STEER_PASS 1u    /* connected, or reached without a tunnel */
#define CULVERT_STEER_PROTECT 2u /* behind a tunnel */

/*
 * Value of `prefixes`. Bit i of a set stands for child i (or for bypass rule i). A longest-prefix match sees one entry
 * only, so user space gives every entry the sets of all prefixes that cover it.
 */
struct culvert_prefix_policy {
    __u32 steer;
    __u32 reserved;
    __u64 local_sets;         /* covered by the local subnets of these children */
    __u64 remote_sets;        /* covered by the remote subnets of these children */
    __u64 bypass_source;      /* covered by the source of these bypass rules */
    __u64 bypass_destination; /* covered by the destination of these bypass rules */
};

/* Key of the maps `local_ipv6` and `peers_ipv6`. */
struct culvert_ipv6_address {
    __u8 bytes[16];
};

/*
 * What IKE messages that name no IKE SA of ours share their source's tokens with: only their own kind. Who makes up a peer's
 * address can use up what first messages have there, but not what is kept for those that bring a cookie, which user space gives
 * to who hears its answers and checks without keeping anything (RFC 7296 section 2.6).
 */
#define CULVERT_IKE_OTHER 0u  /* at the rate of `settings` */
#define CULVERT_IKE_FIRST 1u  /* IKE_SA_INIT without a cookie */
#define CULVERT_IKE_COOKIE 2u /* IKE_SA_INIT with one */
#define CULVERT_IKE_FIRST_SHARES 5u /* times the rate, and the burst */
#define CULVERT_IKE_COOKIE_SHARES 10u

/* Key of the map `ike_sources`. */
struct culvert_ike_source {
    __be32 address;
    __u32 kind;
};

/* Key of the map `ike_sources_ipv6`: the first 64 bits, since a host has all addresses of its network to send from. */
struct culvert_ike_network {
    __u64 network;
    __u64 kind;
};

/* Map `settings`, one element. */
struct culvert_settings {
    __u32 ike_packets_per_second; /* allowed per source address, or IPv6 network of 64 bits; 0: no limit */
    __u32 ike_burst_packets;      /* at once, after a silence */
    __u32 only_peers;             /* 1: IKE and ESP from addresses outside of `peers` and `peers_ipv6` is dropped */
    __u32 longest_frame_bytes;    /* that the sockets take; longer ones go to the kernel. 0: any */
};

/*
 * Maps `ike_sources`, `ike_sources_ipv6`, and `ike_sas` (SPI of ours in network byte order): credit is time, one packet costs
 * 1 s / rate.
 */
struct culvert_ike_bucket {
    __u64 last_ns;
    __u64 credit_ns;
};

/* Map `counters`, per CPU. Every packet adds one to exactly one of the first group, its verdict. */
enum culvert_counter {
    /* Verdicts. */
    CULVERT_COUNT_PASSED,               /* to the kernel: nothing of ours */
    CULVERT_COUNT_PASSED_IKE,           /* to the kernel: IKE for a local address */
    CULVERT_COUNT_PASSED_FRAGMENT,      /* to the kernel: a fragment of ESP or UDP for a local address */
    CULVERT_COUNT_PASSED_LOCAL,         /* to the kernel: for a local address */
    CULVERT_COUNT_PASSED_BYPASS,        /* to the kernel: a bypass rule */
    CULVERT_COUNT_PASSED_OTHER_HOST,    /* to the kernel, which drops it: another host's link-layer address */
    CULVERT_COUNT_PASSED_VLAN,          /* to the kernel: a VLAN-tagged frame */
    CULVERT_COUNT_PASSED_NOT_IPV4,      /* to the kernel: ARP, IPv6 that is not for us, and the rest */
    CULVERT_COUNT_PASSED_MALFORMED,     /* to the kernel, which drops it: not a whole IP header */
    CULVERT_COUNT_PASSED_UNKNOWN_PORT,  /* to the kernel: this interface is not in `ports` */
    CULVERT_COUNT_PASSED_NO_SOCKET,     /* to the kernel: ESP for us, but its queue has no socket */
    CULVERT_COUNT_PASSED_LONG,          /* to the kernel: longer than a socket's frames */
    CULVERT_COUNT_REDIRECTED_ESP,       /* to a worker: ESP or AH */
    CULVERT_COUNT_REDIRECTED_UDP_ESP,   /* to a worker: ESP in UDP */
    CULVERT_COUNT_REDIRECTED_PROTECTED, /* to a worker: for a protected prefix */
    CULVERT_COUNT_DROPPED_CLEAR_INBOUND,
    CULVERT_COUNT_DROPPED_NAT_KEEPALIVE,
    CULVERT_COUNT_DROPPED_IKE_FLOOD,
    CULVERT_COUNT_DROPPED_MALFORMED,    /* UDP 4500 too short to be ESP or IKE */
    CULVERT_COUNT_DROPPED_NO_SOCKET,    /* for a protected prefix, but its queue has no socket */
    CULVERT_COUNT_DROPPED_STRANGER,     /* IKE or ESP from nobody's peer, while only peers are listened to */
    CULVERT_COUNTERS
};
