/* What direct.c and direct.go share. */
#include <stdint.h>

#define TAILNET_RESETS 16384
#define HIDDEN __attribute__((visibility("hidden")))

/* Written by Go, read by C, in forked children too. bridge.Shared is the same in Go. */
struct tailnet_shared {
    uint64_t generation;
    uint64_t resets[TAILNET_RESETS];
};
HIDDEN extern struct tailnet_shared *tailnet_shared;

/*
 * A note: what one call asks for. The strings and the descriptors belong to the reader.
 * Without an operation it is a dial, and `args` is the address. Without `fd` it sets an option of
 * the connection or listener `node`; it holds no address then, and a forked child may leave it.
 */
struct tailnet_note {
    uint64_t node;
    char *operation, *args;
    int32_t fd;         /* where the answer goes */
    int32_t descriptor; /* what the caller sent along, or -1 */
    int32_t option, value;
};

/* Notes are written to this pipe from now on. */
HIDDEN void tailnet_begin_direct(int pipe);
