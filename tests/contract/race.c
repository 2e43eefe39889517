/*
 * race.c: calls that meet a close. Threads call every function on one node's handle, read the replies
 * or give them up, while others close the node: one that has not joined, one that cannot, because
 * nobody is where its control server should be, and one that has.
 *
 * Read checks.h and smoke.c first.
 */
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "checks.h"

enum { CALLERS = 6, CLOSERS = 3 };

static char directory[] = "/tmp/tailnet-contract-XXXXXX";
static char listen_args[256], dial_args[128], ip[64];
static _Atomic tailnet_handle node;
static _Atomic long calls, pending_closes;
static atomic_int closed; /* a close has returned: from now on the handle is no good */

/* What the thread's last call made, and it has to close. */
static _Thread_local tailnet_handle listener;
static _Thread_local int end = -1;

static int32_t up(tailnet_answer *a) { return tailnet_node_up(node, "{}", a); }
static int32_t listen_(tailnet_answer *a) { return tailnet_listen(node, listen_args, &listener, a); }
static int32_t dial_peer(tailnet_answer *a) { return tailnet_dial(node, dial_args, a); }
static int32_t dial_name(tailnet_answer *a) { return tailnet_dial(node, "nobody:80", a); }
static int32_t dial_silence(tailnet_answer *a) { return tailnet_dial(node, "100.65.0.1:80", a); }
static int32_t whois(tailnet_answer *a) { return ask_whois(node, ip, a); }
static int32_t whois_nobody(tailnet_answer *a) { return ask_whois(node, "100.127.0.1:80", a); }
static int32_t status(tailnet_answer *a) { return ask(node, "status", a); }
static int32_t watch(tailnet_answer *a) { return ask(node, "watch", a); }

#define BIT(code) (1u << ((code) - TAILNET_PENDING))
enum { WHEN_CLOSED = BIT(TAILNET_E_HANDLE) | BIT(TAILNET_E_CLOSED) };

/* Every outcome that has a reason here, besides TAILNET_OK. */
static const struct {
    const char *name;
    int32_t (*call)(tailnet_answer *);
    unsigned outcomes;
} CALLS[] = {
    {"tailnet_node_up", up, WHEN_CLOSED | BIT(TAILNET_E_CONNECT)},
    {"tailnet_listen", listen_, WHEN_CLOSED},
    {"tailnet_dial", dial_peer, WHEN_CLOSED | BIT(TAILNET_E_REFUSED)},
    {"tailnet_dial of a name", dial_name, WHEN_CLOSED | BIT(TAILNET_E_NAME)},
    {"tailnet_dial of who never answers", dial_silence, WHEN_CLOSED | BIT(TAILNET_E_UNREACHABLE)},
    {"whois", whois, WHEN_CLOSED},
    {"whois of nobody", whois_nobody, WHEN_CLOSED | BIT(TAILNET_E_NOT_FOUND)},
    {"status", status, WHEN_CLOSED},
    {"watch", watch, WHEN_CLOSED},
};

/* One call, to its outcome. Some outcomes come with the close only: for each
 * of them one thread waits, and the others give up. */
static void once(size_t which, unsigned number, int is_closed) {
    static _Thread_local unsigned count;
    int32_t (*call)(tailnet_answer *) = CALLS[which].call;
    int dials = call == dial_peer || call == dial_name || call == dial_silence;
    int asks = dials || call == whois || call == whois_nobody || call == status || call == watch; /* all is said in the reply */
    note("%s%s", CALLS[which].name, is_closed ? " after the close" : "");
    int32_t code = call(fresh());
    if (is_closed && asks) {
        EXPECT(TAILNET_PENDING, code);
        RECEIVE("{\"error\":{\"code\":7004,");
        return;
    }
    if (is_closed || code != TAILNET_PENDING) {
        check(code == TAILNET_OK || code == TAILNET_E_HANDLE, __FILE__, __LINE__, "at once", code);
        EXPECT(is_closed ? TAILNET_E_HANDLE : code, code);
        return;
    }
    EXPECT(TAILNET_PENDING, code);
    int gives_up = call == dial_silence ? number != 0 : count++ % 3 == 0;
    if (gives_up) {
        CANCEL();
        return;
    }
    if (call == watch && number != 1) {
        RECEIVE_SOME("");
        return;
    }
    if (dials) {
        RECEIVE_LINE("{\"");
        end = answer.fd;
    } else RECEIVE(call == watch ? "" : "{\"");
    if (strncmp(text, "{\"error\":{", 10) == 0) {
        code = (int32_t)field("code");
        check(code > TAILNET_PENDING && documented(code) && CALLS[which].outcomes & BIT(code), __FILE__, __LINE__, "in the reply", code);
    } else if (call == dial_peer) {
        code = tailnet_connection_end((uint64_t)field("connection"));
        check(code == TAILNET_OK || code == TAILNET_E_RESET, __FILE__, __LINE__, "tailnet_connection_end", code);
        EXPECT_CODE(TAILNET_OK, tailnet_set((uint64_t)field("connection"), TAILNET_KEEPIDLE, 1));
    }
}

static void once_and_close(size_t which, unsigned number, int is_closed) {
    listener = 0, end = -1;
    once(which, number, is_closed);
    if (listener) EXPECT_CODE(TAILNET_OK, tailnet_listener_close(listener));
    if (end >= 0) CHECK(close(end) == 0, "the end is ours to close");
}

static void *caller(void *number) {
    unsigned self = *(unsigned *)number;
    for (unsigned turn = self, last = 0; !last; turn++) {
        last = closed != 0; /* one more round, of which every outcome is known */
        for (size_t i = 0; i < COUNT(CALLS); i++, calls++) once_and_close((i + turn) % COUNT(CALLS), self, (int)last);
        note("of the library");
        EXPECT(TAILNET_OK, tailnet_versions(fresh()));
        EXPECT(TAILNET_OK, tailnet_stats(fresh()));
        EXPECT(TAILNET_PENDING, tailnet_logs(fresh()));
        CANCEL();
    }
    return NULL;
}

static void *closer(void *number) {
    static const int32_t TIMEOUTS[] = {INT32_MIN, 100, 0, 300}; /* which of them counts is up to chance */
    note("tailnet_node_close");
    int32_t code = tailnet_node_close(node, TIMEOUTS[*(unsigned *)number % COUNT(TIMEOUTS)], fresh());
    closed = 1;
    EXPECT(code == TAILNET_PENDING ? code : TAILNET_OK, code);
    if (code == TAILNET_PENDING) {
        pending_closes++;
        RECEIVE("{\"ok\":{\"drained\":");
    }
    return NULL;
}

static int were_made(long count) { return calls >= count; }

/* Threads call, others close when enough was called; all of them come to an end. */
static void storm(unsigned round, long enough) {
    pthread_t threads[CALLERS + CLOSERS];
    unsigned numbers[CALLERS + CLOSERS];
    calls = pending_closes = closed = 0;
    for (unsigned i = 0; i < CALLERS + CLOSERS; i++) {
        if (i == CALLERS) SETTLE("calls are under way", were_made, enough);
        numbers[i] = i < CALLERS ? i : i + round;
        if (pthread_create(&threads[i], NULL, i < CALLERS ? caller : closer, &numbers[i])) abort();
    }
    for (unsigned i = 0; i < CALLERS + CLOSERS; i++) pthread_join(threads[i], NULL);
    note("storm");
    CHECK(pending_closes == 1, "one close has work to do");
}

static void make(const char *control_url, const char *connect_timeout, const char *process) {
    char config[1024];
    tailnet_handle made = 0;
    snprintf(config, sizeof config,
             "{\"hostname\":\"race\",\"ephemeral\":true,\"connect_timeout\":%s,\"control_url\":\"%s\",\"process\":%s}", connect_timeout,
             control_url, process);
    EXPECT(TAILNET_OK, tailnet_node_new(config, &made, fresh()));
    node = made;
    strcpy(ip, "100.64.0.1");
    strcpy(dial_args, "100.64.0.1:80");
}

/* A node that joined, and listens on a port that is dialed. */
static void make_joined(const char *url, const char *process) {
    make(url, "20", process);
    EXPECT(TAILNET_PENDING, tailnet_node_up(node, "{}", fresh()));
    RECEIVE("{\"ok\":{\"hostname\":");
    const char *ips = strstr(text, "\"ips\":[\"");
    snprintf(ip, sizeof ip, "%.*s", ips ? (int)strcspn(ips + 8, "\"") : 0, ips ? ips + 8 : "");
    EXPECT(TAILNET_PENDING, tailnet_listen(node, listen_args, &listener, fresh()));
    RECEIVE("{\"ok\":{");
    snprintf(dial_args, sizeof dial_args, "%s:%ld", ip, field("port"));
}

static int are_open(long count) { return descriptors() <= count; }
static int run(long count) { return stats("goroutines") <= count; }

int main(int argc, char **argv) {
    const char *process = argc > 1 ? argv[1] : "{}";
    char url[256];
    tailnet_handle control;
    struct sockaddr_un name = {.sun_family = AF_UNIX};
    if (!mkdtemp(directory)) abort();
    snprintf(name.sun_path, sizeof name.sun_path, "%s/socket", directory);
    int fd = socket(AF_UNIX, SOCK_STREAM, 0);
    if (fd < 0 || bind(fd, (struct sockaddr *)&name, sizeof name) || listen(fd, 16)) abort();
    snprintf(listen_args, sizeof listen_args, "{\"address\":\":0\",\"path\":\"%s\",\"backlog\":4}", name.sun_path);
    EXPECT(TAILNET_PENDING, tailnet_testcontrol_start("{}", &control, fresh()));
    RECEIVE("{\"ok\":{");
    quote(url, sizeof url, "url");

    long open = 0, running = 0;
    for (unsigned round = 0; round < 6; round++) {
        make("http://127.0.0.1:1", "0.3", process); /* and up finds nobody there, or the close comes before */
        storm(round, round % 2 ? 1 : CALLERS * 20);
        make_joined(url, process);
        if (round == 0) { /* its map is the first to have who never answers; until it comes, that is nobody */
            EXPECT(TAILNET_PENDING, tailnet_testcontrol_do(control, "{\"do\":\"add_fake_nodes\",\"with\":{\"count\":1}}", fresh()));
            RECEIVE("{\"ok\":");
        }
        storm(round, round % 2 ? CALLERS * 3 : CALLERS * 80);
        for (int accepted; fcntl(fd, F_SETFL, O_NONBLOCK) == 0 && (accepted = accept(fd, NULL, NULL)) >= 0;) close(accepted);
        if (round > 0) continue;
        open = descriptors(), running = stats("goroutines"); /* the first round opens what stays open in a process */
    }
    note("afterwards");
    SETTLE("no descriptor is left", are_open, open);
    /* Tailscale's own code starts and ends some as it likes: as many as tests/conftest.py allows. */
    SETTLE("no goroutine is left", run, running + 6);
    CHECK(stats("nodes") == 0 && stats("listeners") == 0 && stats("connections") == 0, "nothing is held");
    unlink(name.sun_path);
    rmdir(directory);
    return finish("race.c");
}
