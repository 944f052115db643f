/* libbpf where its calls take option structures, variadic callbacks or return negative errno values in pointers. */
#pragma once

#include "culvert_headers.h"

/* From here on libbpf's messages are collected instead of printed; the newest win when the buffer is full. */
void culvert_bpf_log_start(void);
/* Copies what was collected since the last call, zero terminated, and forgets it. Returns the length. */
size_t culvert_bpf_log_take(char *text, size_t capacity);

struct culvert_xdp_attachment {
    uint32_t program_id; /* 0: none */
    uint32_t mode;       /* enum xdp_attach of linux/if_link.h: XDP_ATTACHED_DRV, _SKB, _HW, _MULTI */
};
/* All return 0 or a negative errno value. */
int culvert_xdp_query(int ifindex, struct culvert_xdp_attachment *attachment);
/* With `replaced_program_id` not 0, takes that program's place, and fails with -EEXIST when another one is there. */
int culvert_xdp_attach(int ifindex, int program_fd, uint32_t flags, uint32_t replaced_program_id);
/* Detaches only if the program there is `program_id`. */
int culvert_xdp_detach(int ifindex, uint32_t flags, uint32_t program_id);
/* The name of a loaded program, zero terminated; `capacity` at least BPF_OBJ_NAME_LEN. */
int culvert_program_name(uint32_t program_id, char *name, size_t capacity);
int culvert_program_id(int program_fd, uint32_t *id);
/* Runs the program once over `packet` as if it had come in on the interface `ifindex` (0: none) and queue. */
int culvert_program_test_run(int program_fd, const void *packet, uint32_t length, uint32_t ifindex, uint32_t queue,
                             uint32_t *verdict);
