/*
 * The system headers whose structures and constants Swift reads directly. Two rules keep Swift's importer content: the libc's
 * <netinet/in.h> comes before any <linux/…> header that would declare the same structures again, and _GNU_SOURCE is defined
 * in the .c files only, since it changes structures that Swift's own libc module has already read without it.
 */
#pragma once

#include <errno.h>
#include <fcntl.h>
#include <net/if.h>
#include <netinet/in.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <stdint.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include <linux/capability.h>
#include <linux/fib_rules.h>
#include <linux/if_link.h>
#include <linux/if_xdp.h>
#include <linux/neighbour.h>
#include <linux/netfilter/nf_tables.h>
#include <linux/netfilter/nfnetlink.h>
#include <linux/netlink.h>
#include <linux/nexthop.h>
#include <linux/rtnetlink.h>

#include <bpf/bpf.h>
#include <bpf/libbpf.h>
