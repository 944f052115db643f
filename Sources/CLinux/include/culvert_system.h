/*
 * System calls that are variadic in C, need a macro, or take a structure that Swift's own libc module also declares.
 * Each returns what the call returns: -1 with errno set on failure, unless it says otherwise.
 */
#pragma once

#include "culvert_headers.h"

/* Newer than the oldest headers this builds with. The numbers are the kernel's ABI. */
#ifndef SO_PREFER_BUSY_POLL
#define SO_PREFER_BUSY_POLL 69
#endif
#ifndef SO_BUSY_POLL_BUDGET
#define SO_BUSY_POLL_BUDGET 70
#endif
#ifndef NTF_EXT_MANAGED
#define NTF_EXT_MANAGED (1 << 0)
#endif
#ifndef SOL_XDP
#define SOL_XDP 283
#endif

enum {
    CULVERT_SO_BUSY_POLL = SO_BUSY_POLL,
    CULVERT_SO_PREFER_BUSY_POLL = SO_PREFER_BUSY_POLL,
    CULVERT_SO_BUSY_POLL_BUDGET = SO_BUSY_POLL_BUDGET,
    CULVERT_SOL_XDP = SOL_XDP,
    CULVERT_SOL_NETLINK = 270,
};

static inline int culvert_fcntl_int(int fd, int command, int argument) { return fcntl(fd, command, argument); }
static inline int culvert_open(const char *path, int flags) { return open(path, flags | O_CLOEXEC); }
/* The CPU the calling thread runs on. */
int culvert_current_cpu(void);
/* Pins the calling thread to one CPU. Returns 0 or an errno value. */
int culvert_pin_thread(int cpu);

/* Writes the CPUs this process may run on, in order; returns how many there are (at most `capacity` are written) or -1. */
int culvert_allowed_cpus(int *cpus, int capacity);

/* Every page of the mapping belongs to `node` where that node has room. -1 with ENOSYS when the kernel knows no NUMA. */
int culvert_prefer_node(void *address, size_t length, int node);
/* The NUMA node of a CPU, 0 when the kernel knows no NUMA, -1 for an unknown CPU. */
int culvert_node_of_cpu(int cpu);
/* How many NUMA nodes there are: at least 1. */
int culvert_node_count(void);

/* mmap with the flags spelled here, since MAP_HUGE_2MB is a shifted macro: NULL with errno set on failure. */
void *culvert_map_anonymous(size_t length, int huge);

/* Raises RLIMIT_MEMLOCK as far as this process may. */
void culvert_raise_memlock_limit(void);

/* Takes every page of the mapping now (MADV_POPULATE_WRITE). -1 with EINVAL where the kernel is older than 5.14. */
int culvert_populate(void *address, size_t length);

/* TUN: opens /dev/net/tun as `name`. Returns the descriptor. */
int culvert_tun_open(const char *name, int nonblocking);
int culvert_tun_set_persistent(int fd, int persistent);

struct culvert_channels {
    uint32_t receive;  /* queues that receive, combined ones included */
    uint32_t transmit; /* queues that transmit, combined ones included */
};
/* ETHTOOL_GCHANNELS: the queues in use. -1 with EOPNOTSUPP where the driver does not say. */
int culvert_ethtool_channels(const char *name, struct culvert_channels *channels);
/* ETHTOOL_GDRVINFO: driver and bus address ("0000:3b:00.0"), both zero terminated; `capacity` at least 32 each. */
int culvert_ethtool_driver(const char *name, char *driver, char *bus, size_t capacity);
/* The effective capabilities of the calling thread as a bit set. */
int culvert_effective_capabilities(uint64_t *capabilities);
/* Moves the calling thread into a new network namespace of its own, which ends with its last thread, socket and process. */
int culvert_unshare_network(void);
/* PR_SET_DUMPABLE: 0 keeps the whole process out of core dumps and away from ptrace by other processes. */
int culvert_set_dumpable(int dumpable);

/* The name that ps and top show for the calling thread; at most 15 characters are kept. */
void culvert_name_thread(const char *name);

/* Tells the kernel to look at a socket's transmit ring. Returns 0 or an errno value: EAGAIN means that there is more to do. */
static inline int culvert_xsk_kick(int fd) { return sendto(fd, NULL, 0, MSG_DONTWAIT, NULL, 0) < 0 ? errno : 0; }

/* Tells the kernel that the fill ring has frames again, and drives a busy-polled queue. Failure has no consequence. */
static inline void culvert_xsk_receive(int fd) { (void)recvfrom(fd, NULL, 0, MSG_DONTWAIT, NULL, NULL); }
