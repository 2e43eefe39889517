/* What direct.c and direct.go share. */
#include <stdint.h>

#define TAILNET_RESETS 16384

/* Written by Go, read by C. bridge.Shared is the same in Go. */
struct tailnet_shared {
    uint64_t generation;
    uint64_t resets[TAILNET_RESETS];
};
extern struct tailnet_shared tailnet_shared;

/* A dial that was asked for. `address` and `fd` belong to who reads it. */
struct tailnet_request {
    uint64_t node;
    char *address;
    int32_t fd;
};

/* Requests are written to this pipe from now on. */
void tailnet_begin_direct(int pipe);
