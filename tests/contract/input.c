/*
 * input.c: bad input, systematically. Every function that takes a string or a handle is given each
 * way to get it wrong, from the tables below. Nothing leaves the process: no node is ever joined.
 *
 * Read checks.h and smoke.c first.
 */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "checks.h"

#define UNTOUCHED 99
#define LONG (10 << 20)

static const char *process = "{}"; /* Config.process of every node: once per process, so that they agree */
static char config[1024];
static tailnet_handle node, sidecar, control; /* the sidecar has nobody to join by, and says so at once */

/* node_new in the shape of the others; what it makes is closed at once. */
static int32_t node_new(tailnet_handle unused, tailnet_str text_, tailnet_answer *a) {
    tailnet_handle made = UNTOUCHED;
    int32_t code = tailnet_node_new(text_, &made, a);
    (void)unused;
    CHECK((code == TAILNET_OK) == (made != UNTOUCHED), "outputs are written only on success");
    if (code == TAILNET_OK) {
        tailnet_answer closing = {.buf = NULL};
        CHECK(tailnet_node_close(made, 0, &closing) == TAILNET_PENDING && close(closing.fd) == 0, "a new node closes");
    }
    return code;
}

/* The same of a listener; that of a call that fails later is void by itself. */
static int32_t listen_(tailnet_handle h, tailnet_str text_, tailnet_answer *a) {
    tailnet_handle made = UNTOUCHED;
    int32_t code = tailnet_listen(h, text_, &made, a);
    CHECK((code == TAILNET_PENDING) == (made != UNTOUCHED), "outputs are written only on success");
    return code;
}

static int32_t control_start(tailnet_handle unused, tailnet_str text_, tailnet_answer *a) {
    return (void)unused, tailnet_testcontrol_start(text_, &(tailnet_handle){0}, a);
}

/* What takes a JSON object, first what takes no handle. Kinds of fields: string, number, whole number, bool, object, list. */
struct document {
    const char *name, *valid;
    int32_t (*call)(tailnet_handle, tailnet_str, tailnet_answer *);
    tailnet_handle *handle; /* one that it takes */
    int replies;            /* what is wrong is said in a reply */
    struct {
        const char *name;
        char kind;
    } fields[24];
};
static const struct document DOCUMENTS[] = {
    {"tailnet_node_new", config, node_new, &node, 0,
     {{"backend", 's'}, {"hostname", 's'}, {"require_hostname", 'b'}, {"trust_state_dir", 'b'}, {"auth_key", 's'}, {"client_secret", 's'}, {"tags", 'l'}, {"control_url", 's'},
      {"state_dir", 's'}, {"ephemeral", 'b'}, {"port", 'w'}, {"accept_routes", 'b'}, {"exit_node", 's'}, {"advertise_routes", 'l'},
      {"connect_timeout", 'n'}, {"allow_host_network", 'b'}, {"log_level", 's'}, {"tailscaled_socket", 's'},
      {"tailscaled_managed", 'b'}, {"tailscaled_path", 's'}, {"process", 'o'}}},
    {"tailnet_testcontrol_start", "{\"domain\":\"x\"}", control_start, &node, 0,
     {{"auth_key", 's'}, {"require_login", 'b'}, {"require_approval", 'b'}, {"domain", 's'}, {"same_user", 'b'}, {"port", 'w'},
      {"verbose", 'b'}, {"node_attrs", 'l'}, {"tell_peers_after", 'n'}}},
    {"tailnet_node_up", "{\"wait_for_person\":false,\"known_url\":\"x\"}", tailnet_node_up, &sidecar, 0,
     {{"wait_for_person", 'b'}, {"known_url", 's'}}},
    {"tailnet_listen", "{\"address\":\":80\",\"path\":\"/nowhere\",\"backlog\":1}", listen_, &node, 0,
     {{"address", 's'}, {"path", 's'}, {"backlog", 'w'}}},
    {"tailnet_testcontrol_do", "{\"do\":\"nodes\",\"with\":{}}", tailnet_testcontrol_do, &control, 1,
     {{"do", 's'}, {"with", 'o'}}},
};

static const struct {
    char kind;
    const char *json;
} SAMPLES[] = {{'s', "\"x\""}, {'w', "7"}, {'n', "1.5"}, {'b', "true"}, {'o', "{}"}, {'l', "[]"}};

/* Wrong whatever is expected. */
static const char *const NO_DOCUMENTS[] = {
    "", " ", "\n", "{", "}", "[", "{]", "[]", "[{}]", "7", "-", "\"x\"", "true", "tru", "NaN", "{} {}", "{}{", "{},", "{}x", "{}\"",
    "{\"no such field\":1}", "{\"\":1}", "{\"\\u0000\":1}", "{a:1}", "{'a':1}", "{\"a\"}", "{\"a\":}", "{\"a\":1,}", "{,}",
    "{\"a\":01}", "{\"a\":+1}", "{\"a\":0x1}", "{\"a\":Infinity}", "{\"a\":\"\n\"}", "{\"a\":\"\\x\"}", "{\"a\":\"\\ud8\"}",
    "\xef\xbb\xbf{}", "//\n{}", "\x01{}", "\x7f",
};

/* The call says, at once or in its reply, that its argument is wrong. */
static void refused(const struct document *d, const char *document) {
    note("%s given %.60s", d->name, document ? document : "NULL");
    if (!d->replies) {
        EXPECT(TAILNET_E_ARGUMENT, d->call(*d->handle, document, fresh()));
    } else {
        EXPECT(TAILNET_PENDING, d->call(*d->handle, document, fresh()));
        RECEIVE("{\"error\":{\"code\":7002,\"message\":");
    }
}

/* The call finds nothing wrong with the form of its argument. Its outcome is not ours here. */
static void understood(const struct document *d, const char *document) {
    note("%s given %.60s", d->name, document);
    int32_t code = d->call(*d->handle, document, fresh());
    CHECK(documented(code) && code != TAILNET_E_ARGUMENT, "must be understood");
    if (code != TAILNET_PENDING) return;
    RECEIVE("{\"");
    CHECK(!strstr(text, "not the JSON expected"), "must be understood");
}

/* Every byte in its turn, and the end, is no UTF-8. */
static void no_utf8(const char *name, int32_t (*call)(tailnet_handle, tailnet_str, tailnet_answer *), tailnet_handle h, const char *valid) {
    static const char *const BAD[] = {"\xff", "\xc0\x80", "\xed\xa0\x80", "\xf4\x90\x80\x80", "\x80", "\xe2\x82"};
    char bad[2048];
    for (size_t i = 0; i < COUNT(BAD); i++)
        for (size_t at = 0; at <= strlen(valid); at++) {
            snprintf(bad, sizeof bad, "%.*s%s%s", (int)at, valid, BAD[i], valid + at);
            note("%s given %s at %zu", name, BAD[i], at);
            int32_t code = call(h, bad, fresh());
            int asks = call == tailnet_dial || call == ask_whois;
            EXPECT(asks ? TAILNET_PENDING : TAILNET_E_ARGUMENT, code);
            if (asks) RECEIVE("{\"error\":{\"code\":7002,");
            CHECK(strstr(text, "is not UTF-8") != NULL, "must say what is wrong");
        }
}

static void documents(void) {
    char made[1200];
    for (const struct document *d = DOCUMENTS; d < DOCUMENTS + COUNT(DOCUMENTS); d++) {
        note("%s given NULL", d->name);
        EXPECT(TAILNET_E_ARGUMENT, d->call(*d->handle, NULL, fresh()));
        for (size_t i = 0; i < COUNT(NO_DOCUMENTS); i++) refused(d, NO_DOCUMENTS[i]);
        for (size_t cut = 0; cut < strlen(d->valid); cut++) { /* truncated, at every place */
            snprintf(made, sizeof made, "%.*s", (int)cut, d->valid);
            refused(d, made);
        }
        snprintf(made, sizeof made, "%s %s", d->valid, d->valid);
        refused(d, made);
        no_utf8(d->name, d->call, *d->handle, d->valid);
    }
}

static void kinds_of_fields(void) {
    char made[1200];
    for (const struct document *d = DOCUMENTS; d < DOCUMENTS + COUNT(DOCUMENTS); d++)
        for (size_t f = 0; d->fields[f].name; f++) {
            for (size_t s = 0; s < COUNT(SAMPLES); s++) {
                char is = SAMPLES[s].kind, want = d->fields[f].kind;
                snprintf(made, sizeof made, "{\"%s\":%s}", d->fields[f].name, SAMPLES[s].json);
                if (is != want && (is != 'w' || want != 'n')) refused(d, made);
                else if (d->call != control_start) understood(d, made); /* its servers stay until the process ends */
            }
            if (d->fields[f].kind != 'w' && d->fields[f].kind != 'n') continue;
            snprintf(made, sizeof made, "{\"%s\":1e999}", d->fields[f].name);
            refused(d, made);
        }
    refused(&DOCUMENTS[0], "{\"port\":65536}");
    refused(&DOCUMENTS[0], "{\"port\":-1}");
    refused(&DOCUMENTS[0], "{\"tags\":[7]}");
    refused(&DOCUMENTS[0], "{\"advertise_routes\":[[]]}");
    refused(&DOCUMENTS[0], "{\"process\":{\"env\":[]}}");
    refused(&DOCUMENTS[0], "{\"process\":{\"env\":{\"A\":7}}}");
    refused(&DOCUMENTS[0], "{\"process\":{\"log_upload\":\"x\"}}");
    refused(&DOCUMENTS[0], "{\"process\":{\"no such field\":1}}");
    refused(&DOCUMENTS[1], "{\"node_attrs\":[7]}");
    refused(&DOCUMENTS[4], "{\"caps\":{\"x\":7}}");
}

/* A document of `size` bytes: `begin`, then as many of `fill` as it takes, then `end`. */
static char *padded(size_t size, const char *begin, char fill, const char *end) {
    char *made = malloc(size + 1);
    if (!made) abort();
    memset(made, fill, size);
    memcpy(made, begin, strlen(begin));
    strcpy(made + size - strlen(end), end);
    return made;
}

static void sizes(void) {
    static const struct {
        const char *begin, *end;
        char fill;
    } HUGE_[] = {{"", "", 'x'}, {"", "", '['}, {"{\"tags\":", "", '['}, {"{\"a", "\":1}", 'a'}};
    for (size_t i = 0; i < COUNT(HUGE_); i++) {
        char *made = padded(LONG, HUGE_[i].begin, HUGE_[i].fill, HUGE_[i].end);
        for (size_t d = 0; d < COUNT(DOCUMENTS); d++) refused(&DOCUMENTS[d], made);
        note("tailnet_ask given 10 MiB");
        EXPECT(TAILNET_PENDING, tailnet_ask(node, "whois", made, -1, fresh()));
        RECEIVE("{\"error\":{\"code\":7002,");
        free(made);
    }
    char *end = last_byte(); /* no string is read beyond its end: what follows must not be touched */
    for (size_t d = 0; d < COUNT(DOCUMENTS); d++)
        for (size_t length = 0; length < 40; length++) refused(&DOCUMENTS[d], memset(end - length, '[', length));
    note("10 MiB in a field");
    char *address = padded(LONG, "{\"address\":\"", 'x', "\"}");
    EXPECT(TAILNET_PENDING, listen_(node, address, fresh()));
    CHECK(RECEIVE("{\"error\":{\"code\":7005,") > LONG, "the whole of an error that quotes 10 MiB comes");
    EXPECT(TAILNET_PENDING, tailnet_dial(node, address, fresh()));
    CHECK(RECEIVE("{\"error\":{\"code\":7005,") > LONG, "the whole of an error that quotes 10 MiB comes");
    EXPECT(TAILNET_PENDING, tailnet_dial(node, address, fresh()));
    CANCEL(); /* while it is sent */
    free(address);
    address = padded(LONG, "x", 'x', ":80");
    EXPECT(TAILNET_PENDING, tailnet_dial(node, address, fresh()));
    RECEIVE("{\"error\":{\"code\":7020,");
    free(address);
    char *backend = padded(LONG, "{\"hostname\":\"x\",\"backend\":\"", 'x', "\"}");
    EXPECT(TAILNET_E_CONFIG, tailnet_node_new(backend, &(tailnet_handle){0}, fresh()));
    free(backend);
}

/* A path that cannot be opened is the caller's bug; one that can leaves only that the node has not joined. */
static void paths(void) {
    char made[8192], name[5000];
    memset(name, 'p', sizeof name);
    name[200] = name[sizeof name - 1] = 0; /* too long for a socket's name, and not there; and too long for any */
    const char *const PATHS[] = {"", "/no such directory/socket", "/dev/null/socket", "/tmp/\\u0000", "\\ud800", name, name + 201};
    for (size_t i = 0; i < COUNT(PATHS); i++)
        for (int backlog = -1; backlog < 2; backlog++) {
            snprintf(made, sizeof made, "{\"address\":\":80\",\"path\":\"%s\",\"backlog\":%d}", PATHS[i], backlog);
            note("path %.60s", PATHS[i]);
            EXPECT(TAILNET_PENDING, listen_(node, made, fresh()));
            RECEIVE("{\"error\":{\"code\":7002,");
        }
    static const char *const ADDRESSES[] = {"", ":", "80", "x", ":x", ":-1", ":65536", ":1e3", "[::1", "[::1]", "::1:80", "\\u0000"};
    for (size_t i = 0; i < COUNT(ADDRESSES); i++) {
        note("address %s", ADDRESSES[i]);
        snprintf(made, sizeof made, "{\"address\":\"%s\",\"path\":\"/dev/null\"}", ADDRESSES[i]);
        EXPECT(TAILNET_PENDING, listen_(node, made, fresh()));
        RECEIVE("{\"error\":{\"code\":7005,");
        EXPECT(TAILNET_PENDING, tailnet_dial(node, ADDRESSES[i], fresh()));
        RECEIVE("{\"error\":{\"code\":7005,");
    }
    static const char *const PEOPLE[] = {"", " ", ".", "a b", "a/b", "100.64.0.1:", "100.64.0.1:65536", "[::1", "[::1]"};
    for (size_t i = 0; i < COUNT(PEOPLE); i++) {
        note("whois given %s", PEOPLE[i]);
        EXPECT(TAILNET_PENDING, ask_whois(node, PEOPLE[i], fresh()));
        RECEIVE("{\"error\":{\"code\":7005,");
    }
    note("whois");
    EXPECT(TAILNET_E_ARGUMENT, ask_whois(node, NULL, fresh()));
    EXPECT(TAILNET_E_ARGUMENT, tailnet_dial(node, NULL, fresh()));
    EXPECT(TAILNET_E_ARGUMENT, tailnet_listen(node, "{\"address\":\":80\",\"path\":\"/dev/null\"}", NULL, fresh()));
    no_utf8("whois", ask_whois, node, "100.64.0.1:80");
    no_utf8("tailnet_dial", tailnet_dial, node, "peer:80");
    EXPECT(TAILNET_PENDING, ask_whois(node, "100.64.0.1:80", fresh()));
    RECEIVE("{\"error\":{\"code\":7020,");
}

/* Values that are JSON and of the right kind, and cannot be used. */
static void values(void) {
    static const char *const UNUSABLE[] = {
        "{}", "{\"hostname\":\"\"}", "{\"hostname\":\"x\"}", "{\"hostname\":\"x\",\"backend\":\"\"}",
        "{\"hostname\":\"x\",\"ephemeral\":true,\"connect_timeout\":0}", "{\"hostname\":\"x\",\"ephemeral\":true,\"connect_timeout\":-1e300}",
        "{\"hostname\":\"x\",\"ephemeral\":true,\"log_level\":\"loud\"}", "{\"hostname\":\"x\",\"ephemeral\":true,\"advertise_routes\":[\"x\"]}",
        "{\"hostname\":\"x\",\"ephemeral\":true,\"process\":{\"log_upload\":true}}", /* not as the nodes before */
        "{\"hostname\":\"x\",\"ephemeral\":true,\"process\":{\"env\":{\"TS_X\":\"\"}}}",
    };
    for (size_t i = 0; i < COUNT(UNUSABLE); i++) {
        note("tailnet_node_new given %s", UNUSABLE[i]);
        EXPECT(TAILNET_E_CONFIG, node_new(0, UNUSABLE[i], fresh()));
    }
    static const int32_t TIMEOUTS[] = {INT32_MIN, -1, 0, 1, INT32_MAX};
    for (size_t i = 0; i < COUNT(TIMEOUTS); i++) {
        tailnet_handle h = 0;
        note("timeout_ms %d", (int)TIMEOUTS[i]);
        EXPECT(TAILNET_OK, tailnet_node_new(config, &h, fresh()));
        EXPECT(TAILNET_PENDING, tailnet_node_close(h, TIMEOUTS[i], fresh()));
        RECEIVE("{\"ok\":{\"drained\":true}}");
        EXPECT(TAILNET_OK, tailnet_node_close(h, TIMEOUTS[i], fresh()));
    }
}

/* A handle is of one kind, and all of its 64 bits count. */
static void kinds_of_handles(void) {
    tailnet_handle closed = 0;
    note("handles");
    EXPECT(TAILNET_OK, tailnet_node_new(config, &closed, fresh()));
    EXPECT(TAILNET_PENDING, tailnet_node_close(closed, 0, fresh()));
    CANCEL();
    const tailnet_handle OTHERS[] = {0, closed, closed + 1, node | 1ull << 32, node | 1ull << 63, INT32_MAX, INT64_MAX, UINT64_MAX};
    for (size_t i = 0; i <= COUNT(OTHERS); i++) {
        tailnet_handle no_node = i < COUNT(OTHERS) ? OTHERS[i] : control, no_control = i < COUNT(OTHERS) ? OTHERS[i] : node;
        for (const struct document *d = DOCUMENTS + 2; d < DOCUMENTS + COUNT(DOCUMENTS); d++) {
            tailnet_handle h = d->handle == &control ? no_control : no_node;
            note("%s on %llu", d->name, (unsigned long long)h);
            EXPECT(TAILNET_E_HANDLE, d->call(h, d->valid, fresh()));
            CHECK(d->call(h, NULL, fresh()) > TAILNET_PENDING, "both are wrong");
            EXPECT_CODE(TAILNET_E_ARGUMENT, d->call(h, d->valid, NULL));
        }
        EXPECT(TAILNET_PENDING, tailnet_dial(no_node, "peer:80", fresh()));
        RECEIVE("{\"error\":{\"code\":7004,");
        EXPECT(TAILNET_E_ARGUMENT, tailnet_dial(no_node, NULL, fresh()));
        EXPECT_CODE(TAILNET_E_ARGUMENT, tailnet_dial(no_node, "peer:80", NULL));
        EXPECT(TAILNET_PENDING, ask_whois(no_node, "100.64.0.1", fresh()));
        RECEIVE("{\"error\":{\"code\":7004,");
        EXPECT(TAILNET_PENDING, ask(no_node, "status", fresh()));
        RECEIVE("{\"error\":{\"code\":7004,");
        EXPECT(TAILNET_PENDING, ask(no_node, "watch", fresh()));
        RECEIVE("{\"error\":{\"code\":7004,");
        EXPECT(TAILNET_OK, tailnet_node_close(no_node, 0, fresh()));
        EXPECT_CODE(TAILNET_OK, tailnet_listener_close(no_node));
        EXPECT_CODE(TAILNET_OK, tailnet_listener_close(no_control));
        EXPECT_CODE(TAILNET_OK, tailnet_connection_end(no_node));
        EXPECT_CODE(TAILNET_OK, tailnet_connection_end(no_control));
    }
    EXPECT(TAILNET_PENDING, ask(node, "watch", fresh())); /* the node is as it was */
    RECEIVE("{\"error\":{\"code\":7020,");
    CHECK(stats("nodes") == 2, "two nodes are open");
}

static int are_open(long count) { return descriptors() <= count; }
static int run(long count) { return stats("goroutines") <= count; }

int main(int argc, char **argv) {
    if (argc > 1) process = argv[1];
    snprintf(config, sizeof config, "{\"backend\":\"tailscaled\",\"hostname\":\"input\",\"tailscaled_socket\":\"/nowhere\",\"process\":%s}", process);
    EXPECT(TAILNET_OK, tailnet_node_new(config, &sidecar, fresh()));
    snprintf(config, sizeof config, "{\"hostname\":\"input\",\"ephemeral\":true,\"process\":%s}", process);
    EXPECT(TAILNET_OK, tailnet_node_new(config, &node, fresh()));
    EXPECT(TAILNET_PENDING, tailnet_testcontrol_start("{}", &control, fresh()));
    RECEIVE("{\"ok\":{");
    EXPECT(TAILNET_PENDING, tailnet_logs(fresh())); /* the first of each kind opens what stays open */
    CANCEL();
    long open = descriptors(), running = stats("goroutines");

    documents();
    kinds_of_fields();
    sizes();
    paths();
    values();
    kinds_of_handles();

    note("afterwards");
    SETTLE("no descriptor is left", are_open, open);
    SETTLE("no goroutine is left", run, running);
    return finish("input.c");
}
