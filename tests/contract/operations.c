/*
 * operations.c: every operation of tailnet_ask, from the library's own table: with arguments that are
 * wrong, on handles that are no good, given up, and with a descriptor that it does not take.
 *
 * Read checks.h and smoke.c first.
 */
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "checks.h"

static const char *const WRONG[] = {
    "", "{", "[]", "null", "7", "{} {}", "{\"no such field\":1}", "{\"\":1}", "\xff", "{\"address\":7,\"target\":7,\"x\":1}",
};

static char table[ROOM];
static tailnet_handle node, closed;

static void operation(const char *name) {
    for (size_t i = 0; i < COUNT(WRONG); i++) {
        note("%s given %s", name, WRONG[i]);
        EXPECT(TAILNET_PENDING, tailnet_ask(node, name, WRONG[i], -1, fresh()));
        RECEIVE("{\"error\":{\"code\":7002,");
    }
    const tailnet_handle NONE[] = {0, closed, node + 1000, node | 1ull << 63};
    for (size_t i = 0; i < COUNT(NONE); i++) {
        note("%s of handle %llu", name, (unsigned long long)NONE[i]);
        EXPECT(TAILNET_PENDING, ask(NONE[i], name, fresh()));
        RECEIVE("{\"error\":{\"code\":7004,");
    }
    note("%s, given up", name);
    for (int i = 0; i < 20; i++) {
        EXPECT(TAILNET_PENDING, ask(node, name, fresh()));
        CANCEL();
    }
    note("%s of a node that has not joined", name);
    EXPECT(TAILNET_PENDING, ask(node, name, fresh()));
    RECEIVE("{\"error\":{\"code\":70");
    note("%s with a descriptor", name); /* the library closes its duplicate, and ours stays ours */
    int zero = open("/dev/zero", O_RDONLY);
    EXPECT(TAILNET_PENDING, tailnet_ask(node, name, "{}", zero, fresh()));
    RECEIVE("{\"error\":{\"code\":70"); /* it takes none, or the node has not joined */
    CHECK(close(zero) == 0, "the descriptor is still ours");
    EXPECT(TAILNET_E_ARGUMENT, tailnet_ask(node, name, "{}", zero, fresh()));
}

static int are_open(long count) { return descriptors() <= count; }

int main(int argc, char **argv) {
    char config[1024];
    snprintf(config, sizeof config, "{\"hostname\":\"operations\",\"ephemeral\":true,\"process\":%s}", argc > 1 ? argv[1] : "{}");
    EXPECT(TAILNET_OK, tailnet_node_new(config, &node, fresh()));
    EXPECT(TAILNET_OK, tailnet_node_new(config, &closed, fresh()));
    EXPECT(TAILNET_PENDING, tailnet_node_close(closed, 0, fresh()));
    RECEIVE("{\"ok\":");
    EXPECT(TAILNET_OK, tailnet_operations(fresh()));
    memcpy(table, text, sizeof table);
    long open = descriptors(), count = 0;
    for (char *end = table; (end = strstr(end, "\":{\"about\":")) != NULL; count++) { /* "name":{"about": */
        char *name = end;
        *end++ = 0;
        while (name[-1] != '"') name--;
        operation(name);
    }
    note("the table");
    CHECK(count >= 3, "there are operations");
    SETTLE("no descriptor is left", are_open, open);
    return finish("operations.c");
}
