/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * The first thing a packet meets: one XDP program on every interface Culvert owns. It decides three ways, drop, to a worker
 * (AF_XDP), to the kernel, and counts each decision. It changes no packet.
 *
 *   underlay   for a local address:  IPsec or IKE of a stranger   -> dropped, when all peers have fixed addresses
 *                                    ESP, AH, ESP in UDP 4500     -> worker of the receive queue
 *                                    (over IPv6 too, but for AH and whatever has extension headers)
 *                                    IKE (UDP 500, 4500)          -> kernel, after a token bucket per IKE SA or source
 *                                    NAT keepalive                -> dropped
 *                                    fragments of these           -> kernel, which reassembles for raw and UDP sockets
 *              anything else:        must policy protect it?      -> dropped (RFC 4301 section 5.2), otherwise kernel
 *   protected  local, connected, bypass                           -> kernel
 *              a protected destination                            -> worker, or dropped where there is none
 *
 * A port with both roles is asked in this order. A local address means an address of this machine. What is inside tunnels is
 * IPv4: of IPv6 only the first three lines concern us, neighbour discovery and all the rest pass to the kernel.
 *
 * The section is "xdp", not "xdp.frags": on veth a program without fragment support makes the peer stop sending 64 kB
 * segments, which would not fit a frame of the UMEM.
 */
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/udp.h>

#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#include "culvert_xdp.h"

#define PROTOCOL_ESP 50
#define PROTOCOL_AH 51
#define NEXT_HEADER_HOP_BY_HOP 0
#define NEXT_HEADER_ROUTING 43
#define NEXT_HEADER_FRAGMENT 44
#define NEXT_HEADER_DESTINATION 60
#define IKE_SA_INIT 34
#define IKE_FLAG_RESPONSE 0x20
#define IKE_PAYLOAD_NOTIFY 41
#define IKE_NOTIFY_COOKIE 16390
#define IKE_FIRST_NOTIFY_BYTES 36 /* the header, and a Notify payload as far as its type */
#define PORT_IKE 500
#define PORT_IKE_NAT 4500
#define FRAGMENT_OFFSET_MASK 0x1fff
#define FRAGMENT_MORE 0x2000
#define NANOSECONDS_PER_SECOND 1000000000ULL

struct {
    __uint(type, BPF_MAP_TYPE_HASH);
    __uint(max_entries, CULVERT_MAX_PORTS);
    __type(key, __u32);
    __type(value, struct culvert_port);
} ports SEC(".maps");

struct {
    __uint(type, BPF_MAP_TYPE_XSKMAP);
    __uint(max_entries, CULVERT_MAX_PORTS * CULVERT_MAX_QUEUES);
    __type(key, __u32);
    __type(value, __u32);
} xsks SEC(".maps");

struct {
    __uint(type, BPF_MAP_TYPE_HASH);
    __uint(max_entries, CULVERT_MAX_LOCAL_ADDRESSES);
    __type(key, __be32);
    __type(value, __u32);
} local_addresses SEC(".maps");

struct {
    __uint(type, BPF_MAP_TYPE_HASH);
    __uint(max_entries, CULVERT_MAX_LOCAL_ADDRESSES);
    __type(key, struct culvert_ipv6_address);
    __type(value, __u32);
} local_ipv6 SEC(".maps");

struct {
    __uint(type, BPF_MAP_TYPE_LPM_TRIE);
    __uint(max_entries, CULVERT_MAX_PREFIXES);
    __uint(map_flags, BPF_F_NO_PREALLOC);
    __type(key, struct culvert_prefix);
    __type(value, struct culvert_prefix_policy);
} prefixes SEC(".maps");

struct {
    __uint(type, BPF_MAP_TYPE_ARRAY);
    __uint(max_entries, 1);
    __type(key, __u32);
    __type(value, struct culvert_settings);
} settings SEC(".maps");

struct {
    __uint(type, BPF_MAP_TYPE_LRU_HASH);
    __uint(max_entries, CULVERT_MAX_IKE_SOURCES);
    __type(key, struct culvert_ike_source);
    __type(value, struct culvert_ike_bucket);
} ike_sources SEC(".maps");

struct {
    __uint(type, BPF_MAP_TYPE_LRU_HASH);
    __uint(max_entries, CULVERT_MAX_IKE_SOURCES);
    __type(key, struct culvert_ike_network);
    __type(value, struct culvert_ike_bucket);
} ike_sources_ipv6 SEC(".maps");

/* By SPI of ours: who floods from a peer's address does not know the SPI, and cannot take the peer's share. */
struct {
    __uint(type, BPF_MAP_TYPE_HASH);
    __uint(max_entries, CULVERT_MAX_IKE_SAS);
    __uint(map_flags, BPF_F_NO_PREALLOC);
    __type(key, __be64);
    __type(value, struct culvert_ike_bucket);
} ike_sas SEC(".maps");

struct {
    __uint(type, BPF_MAP_TYPE_HASH);
    __uint(max_entries, CULVERT_MAX_PEERS);
    __uint(map_flags, BPF_F_NO_PREALLOC);
    __type(key, __be32);
    __type(value, __u32);
} peers SEC(".maps");

struct {
    __uint(type, BPF_MAP_TYPE_HASH);
    __uint(max_entries, CULVERT_MAX_PEERS);
    __uint(map_flags, BPF_F_NO_PREALLOC);
    __type(key, struct culvert_ipv6_address);
    __type(value, __u32);
} peers_ipv6 SEC(".maps");

struct {
    __uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
    __uint(max_entries, CULVERT_COUNTERS);
    __type(key, __u32);
    __type(value, __u64);
} counters SEC(".maps");

/* What the verdict needs to know of one packet. */
struct packet {
    struct xdp_md *context;
    const struct culvert_port *port;
    const struct iphdr *ip;     /* NULL in IPv6 */
    const struct ipv6hdr *ipv6; /* NULL in IPv4 */
    void *payload;              /* after that header */
    void *end;
    __u8 first_fragment;
    __u8 later_fragment;
    __u8 steerable; /* unicast to us and untagged: a worker can take it as it is */
};

static __always_inline int verdict(__u32 counter, int action)
{
    __u64 *count = bpf_map_lookup_elem(&counters, &counter);
    if (count)
        *count += 1;
    return action;
}

/*
 * Longer than the sockets' frames. The kernel takes such packets slowly, but as they are meant: ESP by our raw sockets, what is
 * to be protected by its route into the tunnel device, with an ICMP error or fragments when that carries less.
 */
static __always_inline int is_long(const struct packet *p)
{
    __u32 zero = 0;
    const struct culvert_settings *rule = bpf_map_lookup_elem(&settings, &zero);
    return rule && rule->longest_frame_bytes && bpf_xdp_get_buff_len(p->context) > rule->longest_frame_bytes;
}

/* To the worker that owns this receive queue; `otherwise` and its counter when no socket is there. */
static __always_inline int redirect(const struct packet *p, __u32 counter, int otherwise, __u32 otherwise_counter)
{
    __u32 queue = p->context->rx_queue_index;
    if (is_long(p))
        return verdict(CULVERT_COUNT_PASSED_LONG, XDP_PASS);
    if (queue >= CULVERT_MAX_QUEUES)
        return verdict(otherwise_counter, otherwise);
    if (bpf_redirect_map(&xsks, p->port->index * CULVERT_MAX_QUEUES + queue, XDP_ABORTED) != XDP_REDIRECT)
        return verdict(otherwise_counter, otherwise);
    return verdict(counter, XDP_REDIRECT);
}

static __always_inline int redirect_esp(const struct packet *p, __u32 counter)
{
    /* The kernel has raw ESP and UDP sockets of ours: the packet is slow there, but not lost. */
    if (!p->steerable)
        return verdict(CULVERT_COUNT_PASSED_NO_SOCKET, XDP_PASS);
    return redirect(p, counter, XDP_PASS, CULVERT_COUNT_PASSED_NO_SOCKET);
}

/* IKE and ESP of nobody whom the configuration names, while it names everybody who may come. */
static __always_inline int is_stranger(const struct packet *p)
{
    __u32 zero = 0;
    const struct culvert_settings *rule = bpf_map_lookup_elem(&settings, &zero);
    if (!rule || !rule->only_peers)
        return 0;
    if (p->ipv6) {
        struct culvert_ipv6_address source;
        __builtin_memcpy(&source, &p->ipv6->saddr, sizeof(source));
        return bpf_map_lookup_elem(&peers_ipv6, &source) == NULL;
    }
    __be32 source = p->ip->saddr;
    return bpf_map_lookup_elem(&peers, &source) == NULL;
}

/* The bucket of the IKE SA that a message names: the header begins with the SPIs of both ends, and one is ours. */
static __always_inline struct culvert_ike_bucket *bucket_of_sa(const struct packet *p, const void *message)
{
    if (message + 2 * sizeof(__be64) > p->end)
        return NULL;
    __be64 spis[2];
    __builtin_memcpy(spis, message, sizeof(spis));
    struct culvert_ike_bucket *bucket = bpf_map_lookup_elem(&ike_sas, &spis[0]);
    return bucket || !spis[1] ? bucket : bpf_map_lookup_elem(&ike_sas, &spis[1]);
}

/* What a message that names no IKE SA of ours is, by its header and its first payload (RFC 7296 sections 3.1, 3.10). */
static __always_inline __u32 kind_of(const struct packet *p, const void *message)
{
    const __u8 *m = message;
    if ((void *)(m + IKE_FIRST_NOTIFY_BYTES) > p->end)
        return CULVERT_IKE_OTHER;
    __be64 responder;
    __builtin_memcpy(&responder, m + 8, sizeof(responder));
    if (responder || m[18] != IKE_SA_INIT || (m[19] & IKE_FLAG_RESPONSE))
        return CULVERT_IKE_OTHER;
    /* "the COOKIE notification ... as the first payload" (section 2.6). */
    if (m[16] == IKE_PAYLOAD_NOTIFY && m[34] == IKE_NOTIFY_COOKIE >> 8 && m[35] == (IKE_NOTIFY_COOKIE & 0xff))
        return CULVERT_IKE_COOKIE;
    return CULVERT_IKE_FIRST;
}

/* The bucket of the source; NULL when it sends for the first time, and then has one with `fresh` in it. */
static __always_inline struct culvert_ike_bucket *bucket_of_source(const struct packet *p, __u32 kind,
                                                                   const struct culvert_ike_bucket *fresh)
{
    struct culvert_ike_bucket *bucket;
    if (p->ipv6) {
        struct culvert_ike_network source = { .kind = kind };
        __builtin_memcpy(&source.network, &p->ipv6->saddr, sizeof(source.network));
        bucket = bpf_map_lookup_elem(&ike_sources_ipv6, &source);
        if (!bucket)
            bpf_map_update_elem(&ike_sources_ipv6, &source, fresh, BPF_ANY);
    } else {
        struct culvert_ike_source source = { .address = p->ip->saddr, .kind = kind };
        bucket = bpf_map_lookup_elem(&ike_sources, &source);
        if (!bucket)
            bpf_map_update_elem(&ike_sources, &source, fresh, BPF_ANY);
    }
    return bucket;
}

/*
 * One token bucket per IKE SA of ours, and for all else one per kind of message and source address, of IPv6 per network. Two
 * CPUs that race on one bucket may let a few packets more through: it guards the control thread's time, not a secret.
 */
static __always_inline int pass_ike(const struct packet *p, const void *message)
{
    __u32 zero = 0;
    const struct culvert_settings *limit = bpf_map_lookup_elem(&settings, &zero);
    if (!limit || limit->ike_packets_per_second == 0)
        return verdict(CULVERT_COUNT_PASSED_IKE, XDP_PASS);

    __u64 cost = NANOSECONDS_PER_SECOND / limit->ike_packets_per_second;
    __u64 most = cost * limit->ike_burst_packets; /* a larger share of both is a smaller cost */
    __u64 now = bpf_ktime_get_ns();
    struct culvert_ike_bucket *bucket = bucket_of_sa(p, message);
    if (!bucket) {
        __u32 kind = kind_of(p, message);
        if (kind == CULVERT_IKE_FIRST)
            cost /= CULVERT_IKE_FIRST_SHARES;
        else if (kind == CULVERT_IKE_COOKIE)
            cost /= CULVERT_IKE_COOKIE_SHARES;
        struct culvert_ike_bucket fresh = { .last_ns = now, .credit_ns = most > cost ? most - cost : 0 };
        bucket = bucket_of_source(p, kind, &fresh);
    }
    if (!bucket)
        return verdict(CULVERT_COUNT_PASSED_IKE, XDP_PASS);
    __u64 last = bucket->last_ns;
    __u64 credit = bucket->credit_ns + (now > last ? now - last : 0);
    if (credit > most)
        credit = most;
    bucket->last_ns = now;
    if (credit < cost) {
        bucket->credit_ns = credit;
        return verdict(CULVERT_COUNT_DROPPED_IKE_FLOOD, XDP_DROP);
    }
    bucket->credit_ns = credit - cost;
    return verdict(CULVERT_COUNT_PASSED_IKE, XDP_PASS);
}

/* UDP 4500 for us, RFC 3948 section 2: one octet 0xFF is a keepalive, four zero octets mark IKE, the rest is ESP. */
static __always_inline int udp_encapsulated(const struct packet *p, const struct udphdr *udp)
{
    const __u8 *data = (const __u8 *)(udp + 1);
    __u16 length = bpf_ntohs(udp->len);
    if (length == sizeof(*udp) + 1 && (void *)(data + 1) <= p->end && data[0] == 0xff)
        return verdict(CULVERT_COUNT_DROPPED_NAT_KEEPALIVE, XDP_DROP);
    if (length < sizeof(*udp) + 4 || (void *)(data + 4) > p->end)
        return verdict(CULVERT_COUNT_DROPPED_MALFORMED, XDP_DROP);
    if ((data[0] | data[1] | data[2] | data[3]) == 0)
        return pass_ike(p, data + 4);
    return redirect_esp(p, CULVERT_COUNT_REDIRECTED_UDP_ESP);
}

static __always_inline int is_extension(__u8 next)
{
    return next == NEXT_HEADER_FRAGMENT || next == NEXT_HEADER_HOP_BY_HOP || next == NEXT_HEADER_ROUTING ||
           next == NEXT_HEADER_DESTINATION;
}

/* UDP for a local address: a verdict, or -1 for ports that are not ours. */
static __always_inline int udp_for_us(const struct packet *p)
{
    const struct udphdr *udp = p->payload;
    if ((void *)(udp + 1) > p->end)
        return -1;
    __u16 port = bpf_ntohs(udp->dest);
    if (port != PORT_IKE && port != PORT_IKE_NAT)
        return -1;
    if (is_stranger(p))
        return verdict(CULVERT_COUNT_DROPPED_STRANGER, XDP_DROP);
    if (port == PORT_IKE)
        return pass_ike(p, udp + 1);
    if (!p->first_fragment)
        return udp_encapsulated(p, udp);
    /* The kernel puts it together. IKE is counted by its first fragment, or fragments would get round the limit. */
    const __u8 *marker = (const __u8 *)(udp + 1);
    if ((void *)(marker + 4) <= p->end && (marker[0] | marker[1] | marker[2] | marker[3]) != 0)
        return verdict(CULVERT_COUNT_PASSED_FRAGMENT, XDP_PASS);
    return pass_ike(p, marker + 4);
}

/* IPsec and IKE for a local address: a verdict, or -1 for everything else. */
static __always_inline int ipsec_for_us(const struct packet *p)
{
    const struct iphdr *ip = p->ip;
    int fragment = p->first_fragment || p->later_fragment;
    if (ip->protocol == PROTOCOL_ESP || ip->protocol == PROTOCOL_AH) {
        if (is_stranger(p))
            return verdict(CULVERT_COUNT_DROPPED_STRANGER, XDP_DROP);
        if (fragment)
            return verdict(CULVERT_COUNT_PASSED_FRAGMENT, XDP_PASS);
        return redirect_esp(p, CULVERT_COUNT_REDIRECTED_ESP);
    }
    if (ip->protocol != IPPROTO_UDP)
        return -1;
    /* Without its first fragment, which is judged below, a datagram never completes: the others may go on. */
    if (p->later_fragment)
        return verdict(CULVERT_COUNT_PASSED_FRAGMENT, XDP_PASS);
    return udp_for_us(p);
}

static __always_inline const struct culvert_prefix_policy *policy_of(__be32 address)
{
    struct culvert_prefix key = { .length = 32, .address = address };
    return bpf_map_lookup_elem(&prefixes, &key);
}

static __always_inline int bypassed(const struct culvert_prefix_policy *source,
                                    const struct culvert_prefix_policy *destination)
{
    return source && destination && (source->bypass_source & destination->bypass_destination) != 0;
}

/*
 * RFC 4301 section 5.2: a packet that came in the clear, although some child's selectors cover it, must be discarded: from
 * that child's remote subnets to its local ones. On a port that is the protected side as well, packets between local subnets
 * are the site's own, also when a child's remote subnets are everywhere.
 */
static __always_inline int must_be_protected(const struct packet *p)
{
    const struct iphdr *ip = p->ip;
    const struct culvert_prefix_policy *source = policy_of(ip->saddr);
    if (!source || source->remote_sets == 0)
        return 0;
    const struct culvert_prefix_policy *destination = policy_of(ip->daddr);
    if (!destination || (source->remote_sets & destination->local_sets) == 0)
        return 0;
    if ((p->port->roles & CULVERT_ROLE_PROTECTED) && (source->local_sets & destination->local_sets) != 0)
        return 0;
    /* A bypass rule is written for the way out; its answers come in with the addresses swapped. */
    return !bypassed(source, destination) && !bypassed(destination, source);
}

static __always_inline int protected_side(const struct packet *p, int for_local_address)
{
    if (for_local_address)
        return verdict(CULVERT_COUNT_PASSED_LOCAL, XDP_PASS);
    /* Multicast and the limited broadcast do not cross a router; their subnets' owners hear them from the kernel. */
    if (bpf_ntohl(p->ip->daddr) >= 0xe0000000u || !p->steerable)
        return verdict(CULVERT_COUNT_PASSED, XDP_PASS);
    const struct culvert_prefix_policy *destination = policy_of(p->ip->daddr);
    if (!destination || destination->steer != CULVERT_STEER_PROTECT)
        return verdict(CULVERT_COUNT_PASSED, XDP_PASS);
    if (destination->bypass_destination && bypassed(policy_of(p->ip->saddr), destination))
        return verdict(CULVERT_COUNT_PASSED_BYPASS, XDP_PASS);
    return redirect(p, CULVERT_COUNT_REDIRECTED_PROTECTED, XDP_DROP, CULVERT_COUNT_DROPPED_NO_SOCKET);
}

static __always_inline int ipv4(struct packet *p, void *network)
{
    const struct iphdr *ip = network;
    if ((void *)(ip + 1) > p->end || ip->version != 4 || ip->ihl < 5)
        return verdict(CULVERT_COUNT_PASSED_MALFORMED, XDP_PASS);
    p->ip = ip;
    p->payload = network + ip->ihl * 4;
    if (p->payload > p->end)
        return verdict(CULVERT_COUNT_PASSED_MALFORMED, XDP_PASS);
    __u16 fragment = bpf_ntohs(ip->frag_off);
    p->later_fragment = (fragment & FRAGMENT_OFFSET_MASK) != 0;
    p->first_fragment = !p->later_fragment && (fragment & FRAGMENT_MORE) != 0;

    __be32 destination = ip->daddr;
    int for_local_address = bpf_map_lookup_elem(&local_addresses, &destination) != NULL;
    if (p->port->roles & CULVERT_ROLE_UNDERLAY) {
        if (for_local_address) {
            int decided = ipsec_for_us(p);
            if (decided >= 0)
                return decided;
        }
        if (must_be_protected(p))
            return verdict(CULVERT_COUNT_DROPPED_CLEAR_INBOUND, XDP_DROP);
    }
    if (p->port->roles & CULVERT_ROLE_PROTECTED)
        return protected_side(p, for_local_address);
    return verdict(for_local_address ? CULVERT_COUNT_PASSED_LOCAL : CULVERT_COUNT_PASSED, XDP_PASS);
}

/*
 * A packet for us with extension headers is the kernel's, but no way round what ipsec_for_us decides: strangers are dropped and
 * IKE is counted. What has more headers than a path adds for good reason is dropped where strangers are.
 */
static __always_inline int ipv6_extended(struct packet *p, __u8 next)
{
#pragma unroll
    for (int headers = 0; headers < CULVERT_MAX_IPV6_EXTENSIONS; headers++) {
        const __u8 *header = p->payload;
        if ((void *)(header + 8) > p->end)
            return verdict(CULVERT_COUNT_PASSED_MALFORMED, XDP_PASS);
        if (next == NEXT_HEADER_FRAGMENT) {
            /* Without its first fragment, which is judged, a packet never completes. */
            if (((header[2] << 8 | header[3]) & 0xfff8) != 0)
                return verdict(CULVERT_COUNT_PASSED_FRAGMENT, XDP_PASS);
            next = header[0];
            p->payload = (void *)(header + 8);
        } else if (next == NEXT_HEADER_HOP_BY_HOP || next == NEXT_HEADER_ROUTING || next == NEXT_HEADER_DESTINATION) {
            next = header[0];
            p->payload = (void *)(header + ((__u32)header[1] + 1) * 8);
        } else {
            break;
        }
    }
    p->first_fragment = 1;
    if (next == PROTOCOL_ESP || next == PROTOCOL_AH || is_extension(next)) {
        if (is_stranger(p))
            return verdict(CULVERT_COUNT_DROPPED_STRANGER, XDP_DROP);
        return verdict(CULVERT_COUNT_PASSED_FRAGMENT, XDP_PASS);
    }
    int decided = next == IPPROTO_UDP ? udp_for_us(p) : -1;
    return decided >= 0 ? decided : verdict(CULVERT_COUNT_PASSED_LOCAL, XDP_PASS);
}

/* IPsec and IKE for a local address; the rest is the kernel's. */
static __always_inline int ipv6(struct packet *p, void *network)
{
    const struct ipv6hdr *ip = network;
    if ((void *)(ip + 1) > p->end || ip->version != 6)
        return verdict(CULVERT_COUNT_PASSED_MALFORMED, XDP_PASS);
    if (!(p->port->roles & CULVERT_ROLE_UNDERLAY))
        return verdict(CULVERT_COUNT_PASSED_NOT_IPV4, XDP_PASS);
    struct culvert_ipv6_address destination;
    __builtin_memcpy(&destination, &ip->daddr, sizeof(destination));
    if (!bpf_map_lookup_elem(&local_ipv6, &destination))
        return verdict(CULVERT_COUNT_PASSED_NOT_IPV4, XDP_PASS);
    p->ipv6 = ip;
    p->payload = (void *)(ip + 1);
    if (ip->nexthdr == PROTOCOL_ESP) {
        if (is_stranger(p))
            return verdict(CULVERT_COUNT_DROPPED_STRANGER, XDP_DROP);
        return redirect_esp(p, CULVERT_COUNT_REDIRECTED_ESP);
    }
    if (ip->nexthdr == PROTOCOL_AH || is_extension(ip->nexthdr))
        return ipv6_extended(p, ip->nexthdr);
    int decided = ip->nexthdr == IPPROTO_UDP ? udp_for_us(p) : -1;
    return decided >= 0 ? decided : verdict(CULVERT_COUNT_PASSED_LOCAL, XDP_PASS);
}

/* 1 when the frame is for this port, as far as its link-layer address tells. */
static __always_inline int for_this_port(const __u8 *address, const struct culvert_port *port)
{
    const __u8 *own = port->mac;
    if ((own[0] | own[1] | own[2] | own[3] | own[4] | own[5]) == 0)
        return 1;
    return own[0] == address[0] && own[1] == address[1] && own[2] == address[2] && own[3] == address[3] &&
           own[4] == address[4] && own[5] == address[5];
}

SEC("xdp")
int culvert_xdp(struct xdp_md *context)
{
    void *data = (void *)(long)context->data;
    struct packet p = { .context = context, .end = (void *)(long)context->data_end, .steerable = 1 };
    __u32 interface = context->ingress_ifindex;
    p.port = bpf_map_lookup_elem(&ports, &interface);
    if (!p.port)
        return verdict(CULVERT_COUNT_PASSED_UNKNOWN_PORT, XDP_PASS);

    struct ethhdr *ethernet = data;
    if ((void *)(ethernet + 1) > p.end)
        return verdict(CULVERT_COUNT_PASSED_NOT_IPV4, XDP_PASS);
    if (ethernet->h_dest[0] & 1) {
        /* RFC 1812 section 5.3.4: what came by link-layer broadcast or multicast is not forwarded. */
        p.steerable = 0;
    } else if (!for_this_port(ethernet->h_dest, p.port)) {
        /* Seen because the switch floods or the port is promiscuous: forwarding it would double it. */
        return verdict(CULVERT_COUNT_PASSED_OTHER_HOST, XDP_PASS);
    }

    __be16 type = ethernet->h_proto;
    void *network = ethernet + 1;
    /* A tag with VLAN 0 carries priority only: the kernel hands such a frame to this interface, so it is judged here. */
#pragma unroll
    for (int tags = 0; tags < CULVERT_MAX_VLAN_TAGS; tags++) {
        if (type != bpf_htons(ETH_P_8021Q) && type != bpf_htons(ETH_P_8021AD))
            break;
        __be16 *tag = network;
        if ((void *)(tag + 2) > p.end || (tag[0] & bpf_htons(0x0fff)) != 0)
            return verdict(CULVERT_COUNT_PASSED_VLAN, XDP_PASS);
        type = tag[1];
        network = tag + 2;
        p.steerable = 0;
    }
    if (type == bpf_htons(ETH_P_8021Q) || type == bpf_htons(ETH_P_8021AD))
        return verdict(CULVERT_COUNT_PASSED_VLAN, XDP_PASS);
    if (type == bpf_htons(ETH_P_IPV6))
        return ipv6(&p, network);
    if (type != bpf_htons(ETH_P_IP))
        return verdict(CULVERT_COUNT_PASSED_NOT_IPV4, XDP_PASS);
    return ipv4(&p, network);
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
