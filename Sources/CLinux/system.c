#define _GNU_SOURCE
#include "CLinux.h"

#include <linux/ethtool.h>
#include <linux/if_tun.h>
#include <linux/sockios.h>
#include <numa.h>
#include <numaif.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/syscall.h>

int culvert_current_cpu(void) { return sched_getcpu(); }

int culvert_pin_thread(int cpu)
{
    cpu_set_t set;
    if (cpu < 0 || cpu >= CPU_SETSIZE)
        return EINVAL;
    CPU_ZERO(&set);
    CPU_SET(cpu, &set);
    return pthread_setaffinity_np(pthread_self(), sizeof(set), &set);
}

int culvert_allowed_cpus(int *cpus, int capacity)
{
    cpu_set_t set;
    int count = 0;
    CPU_ZERO(&set);
    if (sched_getaffinity(0, sizeof(set), &set) != 0)
        return -1;
    for (int cpu = 0; cpu < CPU_SETSIZE; cpu++) {
        if (!CPU_ISSET(cpu, &set))
            continue;
        if (count < capacity)
            cpus[count] = cpu;
        count++;
    }
    return count;
}

int culvert_prefer_node(void *address, size_t length, int node)
{
    unsigned long mask[16] = { 0 };
    const int bits = 8 * (int)sizeof(unsigned long);
    if (numa_available() < 0) {
        errno = ENOSYS;
        return -1;
    }
    if (node < 0 || node >= 16 * bits) {
        errno = EINVAL;
        return -1;
    }
    mask[node / bits] |= 1UL << (node % bits);
    return (int)mbind(address, length, MPOL_PREFERRED, mask, 16 * (unsigned long)bits, 0);
}

int culvert_node_of_cpu(int cpu) { return numa_available() < 0 ? 0 : numa_node_of_cpu(cpu); }

int culvert_node_count(void)
{
    int nodes = numa_available() < 0 ? 1 : numa_num_configured_nodes();
    return nodes < 1 ? 1 : nodes;
}

void *culvert_map_anonymous(size_t length, int huge)
{
    int flags = MAP_PRIVATE | MAP_ANONYMOUS;
    if (huge)
        flags |= MAP_HUGETLB | (21 << MAP_HUGE_SHIFT);
    void *address = mmap(NULL, length, PROT_READ | PROT_WRITE, flags, -1, 0);
    return address == MAP_FAILED ? NULL : address;
}

void culvert_raise_memlock_limit(void)
{
    struct rlimit limit = { RLIM_INFINITY, RLIM_INFINITY };
    if (setrlimit(RLIMIT_MEMLOCK, &limit) == 0 || getrlimit(RLIMIT_MEMLOCK, &limit) != 0)
        return;
    limit.rlim_cur = limit.rlim_max;
    setrlimit(RLIMIT_MEMLOCK, &limit);
}

#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23
#endif

int culvert_populate(void *address, size_t length) { return madvise(address, length, MADV_POPULATE_WRITE); }

static int copy_name(struct ifreq *request, const char *name)
{
    size_t length = strlen(name);
    memset(request, 0, sizeof(*request));
    if (length == 0 || length >= IFNAMSIZ) {
        errno = EINVAL;
        return -1;
    }
    memcpy(request->ifr_name, name, length);
    return 0;
}

int culvert_tun_open(const char *name, int nonblocking)
{
    struct ifreq request;
    if (copy_name(&request, name) != 0)
        return -1;
    int fd = open("/dev/net/tun", O_RDWR | O_CLOEXEC | (nonblocking ? O_NONBLOCK : 0));
    if (fd < 0)
        return -1;
    request.ifr_flags = IFF_TUN | IFF_NO_PI;
    if (ioctl(fd, TUNSETIFF, &request) != 0) {
        int saved = errno;
        close(fd);
        errno = saved;
        return -1;
    }
    return fd;
}

int culvert_tun_set_persistent(int fd, int persistent) { return ioctl(fd, TUNSETPERSIST, (unsigned long)(persistent != 0)); }

static int ethtool(const char *name, void *command)
{
    struct ifreq request;
    if (copy_name(&request, name) != 0)
        return -1;
    int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return -1;
    request.ifr_data = command;
    int result = ioctl(fd, SIOCETHTOOL, &request);
    int saved = errno;
    close(fd);
    errno = saved;
    return result;
}

int culvert_ethtool_channels(const char *name, struct culvert_channels *channels)
{
    struct ethtool_channels command = { .cmd = ETHTOOL_GCHANNELS };
    if (ethtool(name, &command) != 0)
        return -1;
    channels->receive = command.rx_count + command.combined_count;
    channels->transmit = command.tx_count + command.combined_count;
    return 0;
}

int culvert_ethtool_driver(const char *name, char *driver, char *bus, size_t capacity)
{
    struct ethtool_drvinfo command = { .cmd = ETHTOOL_GDRVINFO };
    if (capacity < sizeof(command.driver) || capacity < sizeof(command.bus_info)) {
        errno = EINVAL;
        return -1;
    }
    if (ethtool(name, &command) != 0)
        return -1;
    memcpy(driver, command.driver, sizeof(command.driver));
    memcpy(bus, command.bus_info, sizeof(command.bus_info));
    driver[sizeof(command.driver) - 1] = 0;
    bus[sizeof(command.bus_info) - 1] = 0;
    return 0;
}

int culvert_effective_capabilities(uint64_t *capabilities)
{
    struct __user_cap_header_struct header = { .version = _LINUX_CAPABILITY_VERSION_3, .pid = 0 };
    struct __user_cap_data_struct data[2];
    memset(data, 0, sizeof(data));
    if (syscall(SYS_capget, &header, data) != 0)
        return -1;
    *capabilities = (uint64_t)data[1].effective << 32 | data[0].effective;
    return 0;
}

int culvert_set_dumpable(int dumpable) { return prctl(PR_SET_DUMPABLE, dumpable ? 1 : 0, 0, 0, 0); }

void culvert_name_thread(const char *name)
{
    char kept[16] = {0};
    strncpy(kept, name, sizeof(kept) - 1);
    pthread_setname_np(pthread_self(), kept);
}

int culvert_unshare_network(void) { return unshare(CLONE_NEWNET); }
