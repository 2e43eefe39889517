/*
 * joined.c: a node that has joined, from C: it listens, dials itself, talks both ways with half-closes,
 * gives dials up, and leaves. The tailnet is offline, in this process.
 *
 * Read checks.h and smoke.c first.
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "checks.h"

static const char *process = "{}"; /* Config.process of every node */
static char directory[] = "/tmp/tailnet-contract-XXXXXX", url[256], ip[64];
static tailnet_handle control;

/* A unix listening socket whose queue has room for `queue`, and the arguments that listen there. */
static int listening(char *args, size_t size, int queue, const char *address, int backlog) {
    static int count;
    struct sockaddr_un name = {.sun_family = AF_UNIX};
    snprintf(name.sun_path, sizeof name.sun_path, "%s/%d", directory, count++);
    int fd = socket(AF_UNIX, SOCK_STREAM, 0);
    if (fd < 0 || bind(fd, (struct sockaddr *)&name, sizeof name) || listen(fd, queue)) abort();
    snprintf(args, size, "{\"address\":\"%s\",\"path\":\"%s\",\"backlog\":%d}", address, name.sun_path, backlog);
    return fd;
}

/* Wait for a descriptor; without end is a failure, not a hang. */
static int ready(int fd, short events) { return await(fd, events, 20000); }

static int accepted(int listener) {
    CHECK(ready(listener, POLLIN), "a connection arrives");
    int fd = accept(listener, NULL, NULL);
    CHECK(fd >= 0, "the connection is accepted");
    return fd;
}

/* The socket of a dialed connection, and its number. */
static int dialed(tailnet_handle node, long port, uint64_t *connection) {
    char args[128];
    snprintf(args, sizeof args, "%s:%ld", ip, port);
    EXPECT(TAILNET_PENDING, tailnet_dial(node, args, fresh()));
    RECEIVE_LINE("{\"ok\":{\"connection\":");
    *connection = (uint64_t)field("connection");
    return answer.fd;
}

static void say(int fd, const char *what, size_t size) {
    for (size_t done = 0; done < size;) {
        ssize_t n = ready(fd, POLLOUT) ? send(fd, what + done, size - done, MSG_NOSIGNAL) : -1;
        if (n < 0 && errno != EAGAIN) {
            CHECK(0, "what is said is sent");
            return;
        }
        if (n > 0) done += (size_t)n;
    }
}

/* Say so much that all buffers on the way are full; nobody reads it. */
static void flood(int fd) {
    static const char flood[65536];
    while (await(fd, POLLOUT, 200))
        if (send(fd, flood, sizeof flood, MSG_NOSIGNAL) < 0 && errno != EAGAIN) break;
}

/* Read exactly `size` bytes, which must be those of `what`; or, with size 0, EOF. */
static void hear(int fd, const char *what, size_t size) {
    char heard[4096];
    size_t done = 0;
    do {
        ssize_t n = ready(fd, POLLIN) ? read(fd, heard, size - done < sizeof heard && size ? size - done : sizeof heard) : -1;
        if (n < 0 && errno == EAGAIN) continue;
        CHECK(size ? n > 0 && memcmp(heard, what + done, (size_t)n) == 0 : n == 0, size ? "what was said is heard" : "EOF is heard");
        if (n <= 0) return;
        done += (size_t)n;
    } while (done < size);
}

static tailnet_handle join(const char *hostname) {
    char config[1024];
    tailnet_handle node = 0;
    snprintf(config, sizeof config, "{\"hostname\":\"%s\",\"ephemeral\":true,\"control_url\":\"%s\",\"process\":%s}", hostname, url, process);
    EXPECT(TAILNET_OK, tailnet_node_new(config, &node, fresh()));
    EXPECT(TAILNET_PENDING, tailnet_node_up(node, "{}", fresh()));
    RECEIVE("{\"ok\":{\"hostname\":");
    const char *ips = strstr(text, "\"ips\":[\"");
    snprintf(ip, sizeof ip, "%.*s", ips ? (int)strcspn(ips + 8, "\"") : 0, ips ? ips + 8 : "");
    CHECK(*ip, "the node has an address");
    return node;
}

static void leave(tailnet_handle node, int32_t timeout_ms, const char *begins) {
    EXPECT(TAILNET_PENDING, tailnet_node_close(node, timeout_ms, fresh()));
    RECEIVE(begins);
}

/* A megabyte both ways; then each side ends in its own time. */
static void talk(tailnet_handle node, int listener, long port) {
    enum { SIZE = 1 << 20 };
    uint64_t connection;
    char *much = malloc(SIZE);
    for (size_t i = 0; i < SIZE; i++) much[i] = (char)(i * 7 + i / 251);
    note("talking");
    int client = dialed(node, port, &connection), server = accepted(listener);
    say(client, "hello", 5);
    hear(server, "hello", 5);
    for (size_t at = 0; at < SIZE; at += SIZE / 16) { /* in turns: one thread does both ends */
        say(client, much + at, SIZE / 16);
        hear(server, much + at, SIZE / 16);
        say(server, much + at, SIZE / 16);
        hear(client, much + at, SIZE / 16);
    }
    CHECK(shutdown(client, SHUT_WR) == 0, "half a close");
    hear(server, NULL, 0);
    say(server, "and yet", 7); /* the other half stays */
    hear(client, "and yet", 7);
    CHECK(close(server) == 0, "the other half");
    hear(client, NULL, 0);
    EXPECT_CODE(TAILNET_OK, tailnet_connection_end(connection));
    for (int32_t option = TAILNET_KEEPALIVE; option <= TAILNET_USER_TIMEOUT; option++)
        EXPECT_CODE(TAILNET_OK, tailnet_set(connection, option, 1));
    CHECK(close(client) == 0, "the socket is ours to close");
    free(much);
}

static int are_listening(long count) { return stats("listeners") == count; }
static int open_connections(long count) { return stats("connections") == count; }

/* A peer on the map that does not exist never answers: the dial goes on until it is given up. */
static void give_up(tailnet_handle node) {
    note("giving up");
    EXPECT(TAILNET_PENDING, tailnet_testcontrol_do(control, "{\"do\":\"add_fake_nodes\",\"with\":{\"count\":1}}", fresh()));
    RECEIVE("{\"ok\":");
    for (int i = 0; i < 8; i++) {
        EXPECT(TAILNET_PENDING, tailnet_dial(node, "100.65.0.1:80", fresh()));
        if (i % 2) CHECK(close(answer.fd) == 0, "the descriptor is ours to close"); /* that will do, without a fork */
        else CANCEL();
    }
    EXPECT(TAILNET_PENDING, tailnet_dial(node, "192.0.2.1:80", fresh())); /* not of the tailnet */
    RECEIVE("{\"error\":{\"code\":7014,");
    EXPECT(TAILNET_PENDING, tailnet_dial(node, "nobody:80", fresh()));
    RECEIVE("{\"error\":{\"code\":7015,");
    EXPECT(TAILNET_PENDING, ask_whois(node, "100.127.0.1", fresh()));
    RECEIVE("{\"error\":{\"code\":7021,");
    SETTLE("no connection is left", open_connections, 0);
}

/* Listeners of a node that can have them: every backlog, and what a listener's handle is no good for. */
static void listeners(tailnet_handle node) {
    static const int BACKLOGS[] = {-2147483647 - 1, -1, 0, 1, 2147483647};
    char args[512], target[128];
    uint64_t connection;
    tailnet_handle listener;
    for (size_t i = 0; i < COUNT(BACKLOGS); i++) {
        note("backlog %d", BACKLOGS[i]);
        int socket_ = listening(args, sizeof args, 4, ":0", BACKLOGS[i]);
        EXPECT(TAILNET_PENDING, tailnet_listen(node, args, &listener, fresh()));
        RECEIVE("{\"ok\":{");
        long port = field("port");
        CHECK(port > 0 && stats("listeners") == 2, "it listens");
        int client = dialed(node, port, &connection), server = accepted(socket_);
        EXPECT(TAILNET_E_HANDLE, tailnet_node_up(listener, "{}", fresh()));
        EXPECT(TAILNET_E_HANDLE, tailnet_listen(listener, args, &(tailnet_handle){0}, fresh()));
        EXPECT(TAILNET_PENDING, tailnet_dial(listener, "peer:80", fresh()));
        RECEIVE("{\"error\":{\"code\":7004,");
        EXPECT(TAILNET_PENDING, ask_whois(listener, ip, fresh()));
        RECEIVE("{\"error\":{\"code\":7004,");
        EXPECT(TAILNET_PENDING, ask(listener, "status", fresh()));
        RECEIVE("{\"error\":{\"code\":7004,");
        EXPECT(TAILNET_PENDING, ask(listener, "watch", fresh()));
        RECEIVE("{\"error\":{\"code\":7004,");
        EXPECT(TAILNET_E_HANDLE, tailnet_testcontrol_do(listener, "{\"do\":\"nodes\",\"with\":{}}", fresh()));
        EXPECT(TAILNET_OK, tailnet_node_close(listener, 0, fresh()));
        const tailnet_handle NONE[] = {node, control, connection, listener + 1000, listener | 1ull << 32};
        for (size_t n = 0; n < COUNT(NONE); n++) EXPECT_CODE(TAILNET_OK, tailnet_listener_close(NONE[n]));
        EXPECT(TAILNET_OK, tailnet_node_close(connection, 0, fresh()));
        CHECK(stats("listeners") == 2 && stats("nodes") == 1, "none of these closed anything");
        for (int twice = 0; twice < 2; twice++) EXPECT_CODE(TAILNET_OK, tailnet_listener_close(listener));
        say(client, "still here", 10); /* what was handed over stays */
        hear(server, "still here", 10);
        snprintf(target, sizeof target, "%s:%ld", ip, port);
        EXPECT(TAILNET_PENDING, tailnet_dial(node, target, fresh()));
        RECEIVE("{\"error\":{\"code\":7013,");
        CHECK(close(client) == 0 && close(server) == 0 && close(socket_) == 0, "all of these were ours");
    }
    note("listens given up"); /* before the reply, with it there, and never: the handle closes each */
    for (int i = 0; i < 9; i++) {
        EXPECT(TAILNET_PENDING, tailnet_listen(node, args, &listener, fresh()));
        if (i % 3 == 1) CHECK(ready(answer.fd, POLLIN), "the reply is there");
        if (i % 3 != 2) CANCEL();
        EXPECT_CODE(TAILNET_OK, tailnet_listener_close(listener));
        if (i % 3 == 2) RECEIVE("{\"");
    }
    SETTLE("no listener is left but the first", are_listening, 1);
    note("addresses to listen on");
    int socket_ = listening(args, sizeof args, 5, "name:80", 1);
    EXPECT(TAILNET_PENDING, tailnet_listen(node, args, &listener, fresh()));
    RECEIVE("{\"error\":{\"code\":7005,");
    CHECK(close(socket_) == 0, "ours");
    socket_ = listening(args, sizeof args, 6, "192.0.2.1:80", 1);
    EXPECT(TAILNET_PENDING, tailnet_listen(node, args, &listener, fresh()));
    RECEIVE("{\"error\":{\"code\":7017,");
    CHECK(close(socket_) == 0, "ours");
    note("no socket to listen at");
    EXPECT(TAILNET_PENDING, tailnet_listen(node, "{\"address\":\":80\",\"path\":\"/dev/null\"}", &listener, fresh()));
    RECEIVE("{\"error\":{\"code\":7002,");
}

static void questions(tailnet_handle node) {
    note("questions");
    EXPECT(TAILNET_PENDING, tailnet_node_up(node, "{}", fresh())); /* it is up already */
    RECEIVE("{\"ok\":{\"hostname\":");
    EXPECT(TAILNET_PENDING, ask(node, "status", fresh()));
    RECEIVE("{\"ok\":{");
    EXPECT(TAILNET_PENDING, ask(node, "watch", fresh()));
    RECEIVE_SOME("{\"type\":");
    EXPECT(TAILNET_PENDING, ask_whois(node, ip, fresh()));
    RECEIVE("{\"ok\":{");
    EXPECT(TAILNET_PENDING, tailnet_testcontrol_do(control, "{\"do\":\"nodes\",\"with\":{}}", fresh()));
    RECEIVE("{\"ok\":[{");
}

static void life(int round) {
    char hostname[32], args[512], taken[512];
    uint64_t connection;
    snprintf(hostname, sizeof hostname, "joined-%d", round);
    note("joining");
    tailnet_handle node = join(hostname);
    int fd = listening(args, sizeof args, 8, ":80", 8);
    EXPECT(TAILNET_PENDING, tailnet_listen(node, args, &(tailnet_handle){0}, fresh()));
    RECEIVE("{\"ok\":{");
    int other = listening(taken, sizeof taken, 8, ":80", 8);
    EXPECT(TAILNET_PENDING, tailnet_listen(node, taken, &(tailnet_handle){0}, fresh()));
    RECEIVE("{\"error\":{\"code\":7016,");
    talk(node, fd, 80);
    questions(node);
    if (round == 0) give_up(node);
    listeners(node);

    note("leaving"); /* with a connection that cannot drain, because nobody reads */
    int client = dialed(node, 80, &connection), server = accepted(fd);
    EXPECT(TAILNET_PENDING, ask(node, "watch", fresh()));
    tailnet_answer watching = answer;
    flood(client);
    leave(node, round ? 100 : INT32_MIN, "{\"ok\":{\"drained\":false}}");
    EXPECT_CODE(TAILNET_E_RESET, tailnet_connection_end(connection));
    answer = watching;
    RECEIVE("{\"type\":"); /* the stream ends by itself */
    EXPECT(TAILNET_PENDING, tailnet_dial(node, "peer:80", fresh()));
    RECEIVE("{\"error\":{\"code\":7004,");
    CHECK(close(client) == 0 && close(server) == 0 && close(fd) == 0 && close(other) == 0, "all of these were ours");
}

static int are_open(long count) { return descriptors() <= count; }
static int run(long count) { return stats("goroutines") <= count; }

int main(int argc, char **argv) {
    if (argc > 1) process = argv[1];
    if (!mkdtemp(directory)) abort();
    EXPECT(TAILNET_PENDING, tailnet_testcontrol_start("{}", &control, fresh()));
    RECEIVE("{\"ok\":{");
    quote(url, sizeof url, "url");
    life(0); /* the first opens what stays open in a process */
    long open = descriptors(), running = stats("goroutines");
    for (int round = 1; round < 3; round++) life(round);
    note("afterwards");
    SETTLE("no descriptor is left", are_open, open);
    /* Tailscale's own code starts and ends some as it likes: as many as tests/conftest.py allows. */
    SETTLE("no goroutine is left", run, running + 6);
    CHECK(stats("nodes") == 0 && stats("listeners") == 0 && stats("connections") == 0, "nothing is held");
    char command[64];
    snprintf(command, sizeof command, "rm -r %s", directory);
    CHECK(system(command) == 0, "the directory goes");
    return finish("joined.c");
}
