/*
 * smoke.c: the contract of go/tailnet.h, driven from C and nothing else.
 *
 * Every function is called with what a careless caller passes: NULL, text that is
 * no JSON or no UTF-8, handles that never were or are closed. Each call must answer
 * with the documented code, fill the answer as the header says, and not crash.
 * Nothing leaves the process: no node is ever joined.
 *
 * Read checks.h first.
 */
#include <string.h>

#include "checks.h"

static const char *const CONFIG = "{\"backend\":\"embedded\",\"hostname\":\"smoke\",\"ephemeral\":true,"
                                  "\"control_url\":\"http://127.0.0.1:1\"}";
static const char *const NOT_UTF8 = "{\"hostname\":\"\xff\xfe\"}";
static const tailnet_handle MADE_UP[] = {0, 1, 424242, UINT64_MAX};

static void library(void) {
    EXPECT(TAILNET_OK, tailnet_versions(fresh()));
    CHECK(strstr(text, "\"tailnet\":") && strstr(text, "\"tailscale\":") && strstr(text, "\"go\":"), "versions");
    EXPECT_CODE(TAILNET_E_ARGUMENT, tailnet_versions(NULL));

    EXPECT(TAILNET_OK, tailnet_stats(fresh()));
    CHECK(strstr(text, "\"goroutines\":") && strstr(text, "\"nodes\":0"), "stats");
    EXPECT_CODE(TAILNET_E_ARGUMENT, tailnet_stats(NULL));

    EXPECT(TAILNET_PENDING, tailnet_logs(fresh()));
    CANCEL();
    EXPECT_CODE(TAILNET_E_ARGUMENT, tailnet_logs(NULL));

    EXPECT(TAILNET_OK, tailnet_operations(fresh()));
    CHECK(strstr(text, "\"whois\":{\"about\":") != NULL, "operations");
    EXPECT_CODE(TAILNET_E_ARGUMENT, tailnet_operations(NULL));

    /* An answer that does not fit comes on a descriptor. */
    answer = (tailnet_answer){.buf = NULL, .cap = 0, .fd = -7};
    EXPECT(TAILNET_PENDING, tailnet_versions(&answer));
    RECEIVE("{\"ok\":{");
    fresh();
    answer.cap = 3;
    EXPECT(TAILNET_PENDING, tailnet_versions(&answer));
    CHECK(text[3] == '#', "nothing is written beyond cap");
    RECEIVE("{\"ok\":{");

    /* An error is cut to cap. */
    fresh();
    answer.cap = 5;
    EXPECT_CODE(TAILNET_E_HANDLE, tailnet_node_up(0, "{}", &answer));
    CHECK(answer.len == 5 && text[5] == '#', "an error is cut to cap");
}

static void handles(void) {
    for (size_t i = 0; i < sizeof MADE_UP / sizeof *MADE_UP; i++) {
        tailnet_handle h = MADE_UP[i];
        EXPECT(TAILNET_E_HANDLE, tailnet_node_up(h, "{}", fresh()));
        EXPECT(TAILNET_E_HANDLE, tailnet_listen(h, "{\"address\":\":80\",\"path\":\"/nowhere\",\"backlog\":1}", &(tailnet_handle){0}, fresh()));
        EXPECT(TAILNET_PENDING, tailnet_dial(h, "peer:80", fresh()));
        RECEIVE("{\"error\":{\"code\":7004,");
        EXPECT(TAILNET_PENDING, tailnet_ask(h, "status", "{}", -1, fresh()));
        RECEIVE("{\"error\":{\"code\":7004,");
        EXPECT(TAILNET_E_HANDLE, tailnet_testcontrol_do(h, "{\"do\":\"x\"}", fresh()));
        EXPECT(TAILNET_OK, tailnet_node_close(h, 0, fresh()));
        EXPECT_CODE(TAILNET_OK, tailnet_listener_close(h));
        EXPECT_CODE(TAILNET_OK, tailnet_connection_end(h));
        EXPECT_CODE(TAILNET_OK, tailnet_set(h, TAILNET_KEEPIDLE, 1));
        EXPECT_CODE(TAILNET_E_ARGUMENT, tailnet_set(h, TAILNET_KEEPALIVE - 1, 1));
        EXPECT_CODE(TAILNET_E_ARGUMENT, tailnet_set(h, TAILNET_USER_TIMEOUT + 1, 1));
        CHECK(tailnet_intact() == TAILNET_OK, "it has its descriptors");
        CHECK(tailnet_generation() >> 32 == 0, "nothing has changed yet but the time");

        EXPECT_CODE(TAILNET_E_ARGUMENT, tailnet_node_up(h, "{}", NULL));
        EXPECT_CODE(TAILNET_E_ARGUMENT, tailnet_listen(h, "{}", &(tailnet_handle){0}, NULL));
        EXPECT_CODE(TAILNET_E_ARGUMENT, tailnet_dial(h, "peer:80", NULL));
        EXPECT_CODE(TAILNET_E_ARGUMENT, tailnet_ask(h, "status", "{}", -1, NULL));
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
    CHECK(h == 99, "outputs are written only on success");
}

static void nodes(void) {
    tailnet_handle first = 0, second = 0;
    EXPECT(TAILNET_OK, tailnet_node_new(CONFIG, &first, fresh()));
    EXPECT(TAILNET_OK, tailnet_node_new(CONFIG, &second, fresh()));
    CHECK(first != 0 && second != 0 && first != second, "handles differ and are not 0");
    EXPECT(TAILNET_OK, tailnet_stats(fresh()));
    CHECK(strstr(text, "\"nodes\":2") != NULL, "two nodes are held");

    EXPECT(TAILNET_E_ARGUMENT, tailnet_node_up(first, NULL, fresh()));
    EXPECT(TAILNET_E_ARGUMENT, tailnet_node_up(first, "nonsense", fresh()));
    EXPECT(TAILNET_E_ARGUMENT, tailnet_listen(first, NULL, &(tailnet_handle){0}, fresh()));
    EXPECT(TAILNET_E_ARGUMENT, tailnet_listen(first, NOT_UTF8, &(tailnet_handle){0}, fresh()));
    EXPECT(TAILNET_E_ARGUMENT, tailnet_dial(first, NULL, fresh()));
    EXPECT(TAILNET_PENDING, tailnet_dial(first, "\xff", fresh()));
    RECEIVE("{\"error\":{\"code\":7002,");
    EXPECT(TAILNET_E_ARGUMENT, tailnet_ask(first, NULL, "{}", -1, fresh()));
    EXPECT(TAILNET_E_ARGUMENT, tailnet_ask(first, "status", NULL, -1, fresh()));
    EXPECT(TAILNET_E_ARGUMENT, tailnet_ask(first, "status", "{}", 1 << 20, fresh())); /* no such descriptor */
    EXPECT(TAILNET_PENDING, tailnet_ask(first, "no such operation", "{}", -1, fresh()));
    RECEIVE("{\"error\":{\"code\":7002,");

    /* A node that has not joined answers with an error, here or in the reply. */
    EXPECT(TAILNET_PENDING, tailnet_dial(first, "peer:80", fresh()));
    RECEIVE("{\"error\":{\"code\":70");
    EXPECT(TAILNET_PENDING, ask(first, "status", fresh()));
    RECEIVE("{\"error\":{\"code\":70");
    EXPECT(TAILNET_PENDING, tailnet_dial(first, "peer:80", fresh()));
    CANCEL(); /* cancelled, whether or not the reply was there */

    EXPECT(TAILNET_PENDING, tailnet_node_close(first, 1000, fresh()));
    RECEIVE("{\"ok\":{\"drained\":true}}");
    EXPECT(TAILNET_OK, tailnet_node_close(first, 1000, fresh()));
    EXPECT(TAILNET_PENDING, ask(first, "status", fresh()));
    RECEIVE("{\"error\":{\"code\":7004,");
    EXPECT(TAILNET_PENDING, tailnet_node_close(second, -1, fresh()));
    CANCEL(); /* the work is done all the same */
    EXPECT(TAILNET_OK, tailnet_node_close(second, 0, fresh()));

    EXPECT(TAILNET_OK, tailnet_node_new(CONFIG, &second, fresh()));
    CHECK(second > first + 1, "a handle is never used twice");
    EXPECT(TAILNET_PENDING, tailnet_node_close(second, 0, fresh()));
    RECEIVE("{\"ok\":");
    EXPECT(TAILNET_OK, tailnet_stats(fresh()));
    CHECK(strstr(text, "\"nodes\":0") != NULL, "no node is held");
}

int main(void) {
    library();
    handles();
    configs();
    nodes();
    handles(); /* some of the made-up ones have existed meanwhile */
    return finish("smoke.c");
}
