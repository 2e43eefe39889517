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

enum tailnet_question { TAILNET_DIAL, TAILNET_WHOIS, TAILNET_STATUS };

/* What was asked for. `text` and `fd`, where the answer goes, belong to who reads it. */
struct tailnet_request {
    uint64_t node;
    char *text;
    int32_t fd, question;
};

/* Requests are written to this pipe from now on. */
HIDDEN void tailnet_begin_direct(int pipe);
