/*
 * answers.c: room for answers, of any size. A document is written where it fits and comes by descriptor
 * where it does not, an error is cut, and nothing is written beyond the room, whatever its size is said
 * to be: it ends where a page begins that must not be touched.
 *
 * Read checks.h and smoke.c first.
 */
#include <string.h>

#include "checks.h"

/* Every function with an answer, called so that it answers at once. */
static int32_t versions(tailnet_answer *a) { return tailnet_versions(a); }
static int32_t stats_(tailnet_answer *a) { return tailnet_stats(a); }
static int32_t logs(tailnet_answer *a) { return tailnet_logs(a); }
static int32_t node_new(tailnet_answer *a) { return tailnet_node_new(NULL, &(tailnet_handle){0}, a); }
static int32_t node_up(tailnet_answer *a) { return tailnet_node_up(0, "{}", a); }
static int32_t node_close(tailnet_answer *a) { return tailnet_node_close(0, 0, a); }
static int32_t listen_(tailnet_answer *a) { return tailnet_listen(0, "{}", &(tailnet_handle){0}, a); }
static int32_t dial_(tailnet_answer *a) { return tailnet_dial(0, NULL, a); }
static int32_t ask_(tailnet_answer *a) { return tailnet_ask(0, "status", "{}", -1, a); }
static int32_t operations(tailnet_answer *a) { return tailnet_operations(a); }
static int32_t control_start(tailnet_answer *a) { return tailnet_testcontrol_start(NULL, &(tailnet_handle){0}, a); }
static int32_t control_do(tailnet_answer *a) { return tailnet_testcontrol_do(0, "{}", a); }

static const struct {
    const char *name;
    int32_t (*call)(tailnet_answer *), code;
} CALLS[] = {
    {"tailnet_versions", versions, TAILNET_OK},
    {"tailnet_stats", stats_, TAILNET_OK},
    {"tailnet_logs", logs, TAILNET_PENDING},
    {"tailnet_node_new", node_new, TAILNET_E_ARGUMENT},
    {"tailnet_node_up", node_up, TAILNET_E_HANDLE},
    {"tailnet_node_close", node_close, TAILNET_OK},
    {"tailnet_listen", listen_, TAILNET_E_HANDLE},
    {"tailnet_dial", dial_, TAILNET_E_ARGUMENT},
    {"tailnet_ask", ask_, TAILNET_PENDING},
    {"tailnet_operations", operations, TAILNET_OK},
    {"tailnet_testcontrol_start", control_start, TAILNET_E_ARGUMENT},
    {"tailnet_testcontrol_do", control_do, TAILNET_E_HANDLE},
};

static char *end; /* of the page that answers are written to */

/* What always comes on a descriptor: a stream, or what is wrong with handle 0. */
static void finish_pending(size_t which) {
    if (CALLS[which].call == logs) CANCEL();
    else RECEIVE("{\"error\":{\"code\":7004,");
}

/* One call with `cap` bytes of room, or with NULL instead; `whole` is what it answers where that fits. */
static void answered(size_t which, int32_t cap, int null, const char *whole, int32_t full) {
    enum { BEFORE = 64 };
    int32_t size = cap < 0 || null ? 0 : cap < full + 1 ? cap : full; /* INT32_MAX is a lie: no more than needed is there */
    int32_t room = size < full ? size : full;
    int32_t code = CALLS[which].code;
    note("%s with cap %d%s", CALLS[which].name, (int)cap, null ? " of NULL" : "");
    memset(end - size - BEFORE, '#', (size_t)size + BEFORE);
    answer = (tailnet_answer){.buf = null ? NULL : end - size, .cap = cap, .len = -7, .fd = -7};
    if (code == TAILNET_OK && room < full) code = TAILNET_PENDING;
    EXPECT(code, CALLS[which].call(&answer));
    int written = code == TAILNET_PENDING ? 0 : room;
    CHECK(answer.len == written, "len is what was written");
    /* The numbers of tailnet_stats change, its first name does not. */
    size_t same = CALLS[which].call == stats_ && written > 10 ? 10 : (size_t)written;
    CHECK(memcmp(end - size, whole, same) == 0, "the document, or what of an error has room");
    for (const char *byte = end - size - BEFORE; byte < end; byte++)
        if (byte < end - size || byte >= end - size + written) CHECK(*byte == '#', "nothing else is written");
    if (code != TAILNET_PENDING) return;
    if (CALLS[which].code == TAILNET_PENDING) {
        finish_pending(which);
        return;
    }
    size_t total = RECEIVE("{\"ok\":{");
    CHECK(CALLS[which].call == stats_ || total == (size_t)full + strlen("{\"ok\":}\n"), "the document, by descriptor");
}

int main(void) {
    char whole[ROOM];
    end = last_byte() + 1;
    for (size_t i = 0; i < COUNT(CALLS); i++) {
        note("%s", CALLS[i].name);
        EXPECT_CODE(TAILNET_E_ARGUMENT, CALLS[i].call(NULL));
        EXPECT(CALLS[i].code, CALLS[i].call(fresh()));
        int32_t full = answer.len;
        memcpy(whole, text, (size_t)full);
        if (CALLS[i].code == TAILNET_PENDING) finish_pending(i);
        const int32_t caps[] = {INT32_MIN, -1, 0, 1, 2, full - 1, full, full + 1, INT32_MAX};
        for (size_t c = 0; c < COUNT(caps); c++) {
            if (CALLS[i].call == stats_ && caps[c] > 2) continue; /* its length changes too */
            answered(i, caps[c], 0, whole, full);
            answered(i, caps[c], 1, whole, full);
        }
    }
    return finish("answers.c");
}
