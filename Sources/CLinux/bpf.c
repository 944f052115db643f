#include "CLinux.h"

#include <stdio.h>

/* Verifier logs are long and their end names the fault: the buffer keeps the newest part. */
enum { LOG_BYTES = 64 * 1024, LINE_BYTES = 16 * 1024 };

static pthread_mutex_t log_lock = PTHREAD_MUTEX_INITIALIZER;
static char log_text[LOG_BYTES];
static size_t log_length;

static int collect(enum libbpf_print_level level, const char *format, va_list arguments)
{
    static char line[LINE_BYTES];
    if (level == LIBBPF_DEBUG)
        return 0;
    pthread_mutex_lock(&log_lock);
    int printed = vsnprintf(line, sizeof(line), format, arguments);
    if (printed > 0) {
        size_t length = (size_t)printed < sizeof(line) ? (size_t)printed : sizeof(line) - 1;
        if (log_length + length >= sizeof(log_text)) {
            size_t excess = log_length + length - sizeof(log_text) + 1;
            memmove(log_text, log_text + excess, log_length - excess);
            log_length -= excess;
        }
        memcpy(log_text + log_length, line, length);
        log_length += length;
    }
    pthread_mutex_unlock(&log_lock);
    return printed;
}

void culvert_bpf_log_start(void)
{
    libbpf_set_print(collect);
    pthread_mutex_lock(&log_lock);
    log_length = 0;
    pthread_mutex_unlock(&log_lock);
}

size_t culvert_bpf_log_take(char *text, size_t capacity)
{
    if (capacity == 0)
        return 0;
    pthread_mutex_lock(&log_lock);
    size_t length = log_length < capacity ? log_length : capacity - 1;
    memcpy(text, log_text + (log_length - length), length);
    text[length] = 0;
    log_length = 0;
    pthread_mutex_unlock(&log_lock);
    return length;
}

int culvert_xdp_query(int ifindex, struct culvert_xdp_attachment *attachment)
{
    LIBBPF_OPTS(bpf_xdp_query_opts, options);
    int result = bpf_xdp_query(ifindex, 0, &options);
    if (result != 0)
        return result;
    attachment->mode = options.attach_mode;
    attachment->program_id = options.prog_id;
    /* With several programs attached the kernel names none in prog_id. */
    if (attachment->program_id == 0)
        attachment->program_id = options.drv_prog_id ? options.drv_prog_id
                            : options.skb_prog_id ? options.skb_prog_id
                                                  : options.hw_prog_id;
    return 0;
}

int culvert_xdp_attach(int ifindex, int program_fd, uint32_t flags, uint32_t replaced_program_id)
{
    if (replaced_program_id == 0)
        return bpf_xdp_attach(ifindex, program_fd, flags | XDP_FLAGS_UPDATE_IF_NOEXIST, NULL);
    int old = bpf_prog_get_fd_by_id(replaced_program_id);
    if (old < 0)
        return old;
    LIBBPF_OPTS(bpf_xdp_attach_opts, options, .old_prog_fd = old);
    int result = bpf_xdp_attach(ifindex, program_fd, flags | XDP_FLAGS_REPLACE, &options);
    close(old);
    return result;
}

int culvert_xdp_detach(int ifindex, uint32_t flags, uint32_t program_id)
{
    int old = bpf_prog_get_fd_by_id(program_id);
    if (old < 0)
        return old;
    LIBBPF_OPTS(bpf_xdp_attach_opts, options, .old_prog_fd = old);
    int result = bpf_xdp_detach(ifindex, flags | XDP_FLAGS_REPLACE, &options);
    close(old);
    return result;
}

static int program_info(int fd, struct bpf_prog_info *info)
{
    uint32_t length = sizeof(*info);
    memset(info, 0, sizeof(*info));
    return bpf_obj_get_info_by_fd(fd, info, &length) != 0 ? -errno : 0;
}

int culvert_program_name(uint32_t program_id, char *name, size_t capacity)
{
    struct bpf_prog_info info;
    if (capacity < sizeof(info.name))
        return -EINVAL;
    int fd = bpf_prog_get_fd_by_id(program_id);
    if (fd < 0)
        return fd;
    int result = program_info(fd, &info);
    close(fd);
    if (result != 0)
        return result;
    memcpy(name, info.name, sizeof(info.name));
    name[sizeof(info.name) - 1] = 0;
    return 0;
}

int culvert_program_id(int program_fd, uint32_t *id)
{
    struct bpf_prog_info info;
    int result = program_info(program_fd, &info);
    if (result == 0)
        *id = info.id;
    return result;
}

int culvert_program_test_run(int program_fd, const void *packet, uint32_t length, uint32_t ifindex, uint32_t queue,
                             uint32_t *verdict)
{
    struct xdp_md context = { .data_end = length, .ingress_ifindex = ifindex, .rx_queue_index = queue };
    LIBBPF_OPTS(bpf_test_run_opts, options, .data_in = packet, .data_size_in = length, .ctx_in = &context,
                .ctx_size_in = sizeof(context));
    if (ifindex == 0)
        options.ctx_in = NULL, options.ctx_size_in = 0;
    int result = bpf_prog_test_run_opts(program_fd, &options);
    if (result != 0)
        return result;
    *verdict = options.retval;
    return 0;
}
