/*
 * smoke.c: the contract of go/tailnet.h, driven from C and nothing else.
 *
 * Every function is called with what a careless caller passes: NULL, text that is
 * no JSON or no UTF-8, handles that never were or are closed. Each call must answer
 * with the documented code, fill the answer as the header says, and not crash.
 * Nothing leaves the process: no node is ever joined.
 *
 * tests/test_contract.py compiles and runs it. It prints each broken expectation
 * and ends with 1 if there was any.
 */
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "tailnet.h"

static int checks, failures;
static char text[65536];
static tailnet_answer answer;

/* An answer with room, and with garbage in what the library is to write. */
static tailnet_answer *fresh(void) {
    memset(text, '#', sizeof text);
    answer = (tailnet_answer){.buf = text, .cap = sizeof text - 1, .len = -7, .fd = -7};
    return &answer;
}

static void check(int ok, int line, const char *what, int32_t code) {
    checks++;
    if (!ok) {
        failures++;
        printf("smoke.c:%d: %s: code %d, answer %.200s\n", line, what, (int)code, answer.len > 0 ? text : "(none)");
    }
}

static int documented(int32_t code) { return code == TAILNET_OK || (code >= TAILNET_PENDING && code <= TAILNET_E_RESET); }

/* The call must return `want`; an error must bring its own document, and no descriptor. */
static void expect(int line, const char *call, int32_t want, int32_t code) {
    char number[32];
    check(documented(code), line, call, code);
    check(code == want, line, call, code);
    if (code != TAILNET_PENDING) check(answer.fd == -1, line, "fd must be -1", code);
    if (answer.len >= 0 && answer.len < (int32_t)sizeof text) text[answer.len] = 0;
    if (code > TAILNET_PENDING) {
        snprintf(number, sizeof number, "\"code\":%d", (int)code);
        check(answer.len > 0 && strstr(text, number) && strstr(text, "\"message\":"), line, "error document", code);
    }
}
#define EXPECT(want, call) expect(__LINE__, #call, want, call)

/* Without an answer to fill there is only the code. */
#define EXPECT_CODE(want, call) \
    do { \
        int32_t code = (call); \
        check(code == (want), __LINE__, #call, code); \
    } while (0)

/* Read what comes on the descriptor until EOF (or, of a stream, the first piece) and close it. */
static void receive(int line, int whole, const char *begins) {
    size_t used = 0;
    struct pollfd ready = {.fd = answer.fd, .events = POLLIN};
    while (used < sizeof text - 1 && poll(&ready, 1, 20000) == 1) {
        ssize_t n = read(answer.fd, text + used, sizeof text - 1 - used);
        if (n <= 0) break;
        used += (size_t)n;
        if (!whole) break;
    }
    text[used] = 0;
    answer.len = (int32_t)used;
    check(strncmp(text, begins, strlen(begins)) == 0, line, begins, TAILNET_PENDING);
    check(close(answer.fd) == 0, line, "the descriptor is ours to close", TAILNET_PENDING);
}
#define RECEIVE(begins) receive(__LINE__, 1, begins)

static void cancel(int line) {
    check(shutdown(answer.fd, SHUT_RDWR) == 0, line, "the descriptor is a socket", TAILNET_PENDING);
    check(close(answer.fd) == 0, line, "the descriptor is open", TAILNET_PENDING);
}

static const char *const CONFIG = "{\"backend\":\"embedded\",\"hostname\":\"smoke\",\"ephemeral\":true,"
                                  "\"control_url\":\"http://127.0.0.1:1\"}";
static const char *const NOT_UTF8 = "{\"hostname\":\"\xff\xfe\"}";
static const tailnet_handle MADE_UP[] = {0, 1, 424242, UINT64_MAX};

static void library(void) {
    EXPECT(TAILNET_OK, tailnet_versions(fresh()));
    check(strstr(text, "\"tailnet\":") && strstr(text, "\"tailscale\":") && strstr(text, "\"go\":"), __LINE__, "versions", 0);
    EXPECT_CODE(TAILNET_E_ARGUMENT, tailnet_versions(NULL));

    EXPECT(TAILNET_OK, tailnet_stats(fresh()));
    check(strstr(text, "\"goroutines\":") && strstr(text, "\"nodes\":0"), __LINE__, "stats", 0);
    EXPECT_CODE(TAILNET_E_ARGUMENT, tailnet_stats(NULL));

    EXPECT(TAILNET_PENDING, tailnet_logs(fresh()));
    cancel(__LINE__);
    EXPECT_CODE(TAILNET_E_ARGUMENT, tailnet_logs(NULL));

    /* An answer that does not fit comes on a descriptor. */
    answer = (tailnet_answer){.buf = NULL, .cap = 0, .fd = -7};
    EXPECT(TAILNET_PENDING, tailnet_versions(&answer));
    RECEIVE("{\"ok\":{");
    fresh();
    answer.cap = 3;
    EXPECT(TAILNET_PENDING, tailnet_versions(&answer));
    check(text[3] == '#', __LINE__, "nothing is written beyond cap", 0);
    RECEIVE("{\"ok\":{");

    /* An error is cut to cap. */
    fresh();
    answer.cap = 5;
    EXPECT_CODE(TAILNET_E_HANDLE, tailnet_status(0, &answer));
    check(answer.len == 5 && text[5] == '#', __LINE__, "an error is cut to cap", TAILNET_E_HANDLE);
}

static void handles(void) {
    for (size_t i = 0; i < sizeof MADE_UP / sizeof *MADE_UP; i++) {
        tailnet_handle h = MADE_UP[i];
        EXPECT(TAILNET_E_HANDLE, tailnet_node_up(h, "{}", fresh()));
        EXPECT(TAILNET_E_HANDLE, tailnet_listen(h, "{\"address\":\":80\",\"path\":\"/nowhere\",\"backlog\":1}", fresh()));
        EXPECT(TAILNET_E_HANDLE, tailnet_dial(h, "{\"address\":\"peer:80\"}", fresh()));
        EXPECT(TAILNET_E_HANDLE, tailnet_whois(h, "100.64.0.1", fresh()));
        EXPECT(TAILNET_E_HANDLE, tailnet_status(h, fresh()));
        EXPECT(TAILNET_E_HANDLE, tailnet_watch(h, fresh()));
        EXPECT(TAILNET_E_HANDLE, tailnet_testcontrol_do(h, "{\"do\":\"x\"}", fresh()));
        EXPECT(TAILNET_OK, tailnet_node_close(h, 0, fresh()));
        EXPECT_CODE(TAILNET_OK, tailnet_listener_close(h));
        EXPECT_CODE(TAILNET_OK, tailnet_connection_end(h));

        EXPECT_CODE(TAILNET_E_ARGUMENT, tailnet_node_up(h, "{}", NULL));
        EXPECT_CODE(TAILNET_E_ARGUMENT, tailnet_listen(h, "{}", NULL));
        EXPECT_CODE(TAILNET_E_ARGUMENT, tailnet_dial(h, "{}", NULL));
        EXPECT_CODE(TAILNET_E_ARGUMENT, tailnet_whois(h, "", NULL));
        EXPECT_CODE(TAILNET_E_ARGUMENT, tailnet_status(h, NULL));
        EXPECT_CODE(TAILNET_E_ARGUMENT, tailnet_watch(h, NULL));
        EXPECT_CODE(TAILNET_E_ARGUMENT, tailnet_testcontrol_do(h, "{}", NULL));
        EXPECT_CODE(TAILNET_E_ARGUMENT, tailnet_node_close(h, 0, NULL));
    }
}

static void configs(void) {
    tailnet_handle h = 99;
    EXPECT_CODE(TAILNET_E_ARGUMENT, tailnet_node_new(CONFIG, &h, NULL));
    EXPECT(TAILNET_E_ARGUMENT, tailnet_node_new(NULL, &h, fresh()));
    EXPECT(TAILNET_E_ARGUMENT, tailnet_node_new(CONFIG, NULL, fresh()));
    EXPECT(TAILNET_E_ARGUMENT, tailnet_node_new(NOT_UTF8, &h, fresh()));
    EXPECT(TAILNET_E_ARGUMENT, tailnet_node_new("", &h, fresh()));
    EXPECT(TAILNET_E_ARGUMENT, tailnet_node_new("{", &h, fresh()));
    EXPECT(TAILNET_E_ARGUMENT, tailnet_node_new("[]", &h, fresh()));
    EXPECT(TAILNET_E_ARGUMENT, tailnet_node_new("{\"hostname\":7}", &h, fresh()));
    EXPECT(TAILNET_E_ARGUMENT, tailnet_node_new("{\"no such field\":1}", &h, fresh()));
    EXPECT(TAILNET_E_ARGUMENT, tailnet_node_new("{} {}", &h, fresh()));
    EXPECT(TAILNET_E_ARGUMENT, tailnet_testcontrol_start(NULL, &h, fresh()));
    EXPECT(TAILNET_E_ARGUMENT, tailnet_testcontrol_start("{}", NULL, fresh()));
    EXPECT_CODE(TAILNET_E_ARGUMENT, tailnet_testcontrol_start("{}", &h, NULL));
    check(h == 99, __LINE__, "outputs are written only on success", 0);
}

static void nodes(void) {
    tailnet_handle first = 0, second = 0;
    EXPECT(TAILNET_OK, tailnet_node_new(CONFIG, &first, fresh()));
    EXPECT(TAILNET_OK, tailnet_node_new(CONFIG, &second, fresh()));
    check(first != 0 && second != 0 && first != second, __LINE__, "handles differ and are not 0", 0);
    EXPECT(TAILNET_OK, tailnet_stats(fresh()));
    check(strstr(text, "\"nodes\":2") != NULL, __LINE__, "two nodes are held", 0);

    EXPECT(TAILNET_E_ARGUMENT, tailnet_node_up(first, NULL, fresh()));
    EXPECT(TAILNET_E_ARGUMENT, tailnet_node_up(first, "nonsense", fresh()));
    EXPECT(TAILNET_E_ARGUMENT, tailnet_listen(first, NULL, fresh()));
    EXPECT(TAILNET_E_ARGUMENT, tailnet_listen(first, NOT_UTF8, fresh()));
    EXPECT(TAILNET_E_ARGUMENT, tailnet_dial(first, NULL, fresh()));
    EXPECT(TAILNET_E_ARGUMENT, tailnet_dial(first, "{\"port\":1}", fresh()));
    EXPECT(TAILNET_E_ARGUMENT, tailnet_whois(first, NULL, fresh()));

    /* A node that has not joined answers with an error, here or in the reply. */
    EXPECT(TAILNET_PENDING, tailnet_dial(first, "{\"address\":\"peer:80\"}", fresh()));
    RECEIVE("{\"error\":{\"code\":70");
    EXPECT(TAILNET_PENDING, tailnet_status(first, fresh()));
    RECEIVE("{\"error\":{\"code\":70");
    EXPECT(TAILNET_PENDING, tailnet_dial(first, "{\"address\":\"peer:80\"}", fresh()));
    cancel(__LINE__); /* cancelled, whether or not the reply was there */

    EXPECT(TAILNET_PENDING, tailnet_node_close(first, 1000, fresh()));
    RECEIVE("{\"ok\":{\"drained\":true}}");
    EXPECT(TAILNET_OK, tailnet_node_close(first, 1000, fresh()));
    EXPECT(TAILNET_E_HANDLE, tailnet_status(first, fresh()));
    EXPECT(TAILNET_PENDING, tailnet_node_close(second, -1, fresh()));
    cancel(__LINE__); /* the work is done all the same */
    EXPECT(TAILNET_OK, tailnet_node_close(second, 0, fresh()));

    EXPECT(TAILNET_OK, tailnet_node_new(CONFIG, &second, fresh()));
    check(second > first + 1, __LINE__, "a handle is never used twice", 0);
    EXPECT(TAILNET_PENDING, tailnet_node_close(second, 0, fresh()));
    RECEIVE("{\"ok\":");
    EXPECT(TAILNET_OK, tailnet_stats(fresh()));
    check(strstr(text, "\"nodes\":0") != NULL, __LINE__, "no node is held", 0);
}

int main(void) {
    library();
    handles();
    configs();
    nodes();
    handles(); /* some of the made-up ones have existed meanwhile */
    printf("%d checks, %d failed\n", checks, failures);
    return failures != 0;
}
