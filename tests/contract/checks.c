/* checks.c: see checks.h. */
#include "checks.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define PATIENCE 20 /* seconds for a reply or a condition: tests/conftest.py waits as long */

_Thread_local char text[ROOM];
_Thread_local tailnet_answer answer;

static _Thread_local char noted[256];
static _Atomic int checks, failures;

tailnet_answer *fresh(void) {
    memset(text, '#', sizeof text);
    answer = (tailnet_answer){.buf = text, .cap = sizeof text - 1, .len = -7, .fd = -7};
    return &answer;
}

void note(const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(noted, sizeof noted, format, arguments);
    va_end(arguments);
}

void check(int ok, const char *file, int line, const char *what, int32_t code) {
    checks++;
    if (ok || failures++ >= 100) return;
    printf("%s:%d: %s: %s: code %d, answer %.200s\n", file, line, what, noted, (int)code, answer.len > 0 ? text : "(none)");
    fflush(stdout); /* should the program not come to its end */
}

int documented(int32_t code) { return code == TAILNET_OK || (code >= TAILNET_PENDING && code <= TAILNET_E_RESOURCE); }

void expect(const char *file, int line, const char *call, int32_t want, int32_t code) {
    char number[32];
    int32_t room = answer.cap > 0 ? answer.cap : 0;
    check(documented(code) && code == want, file, line, call, code);
    check(answer.len >= 0 && answer.len <= room, file, line, "len must be within cap", code);
    if (answer.buf == text && answer.len >= 0 && answer.len <= room) {
        const char *rest = text + answer.len;
        size_t left = sizeof text - (size_t)answer.len;
        check(*rest == '#' && memcmp(rest, rest + 1, left - 1) == 0, file, line, "nothing is written beyond len", code);
        text[answer.len] = 0;
    }
    if (code == TAILNET_PENDING) {
        check(answer.len == 0 && answer.fd >= 0, file, line, "a pending call has a descriptor only", code);
        check(fcntl(answer.fd, F_GETFD) & FD_CLOEXEC, file, line, "descriptors are close-on-exec", code);
        check(fcntl(answer.fd, F_GETFL) & O_NONBLOCK, file, line, "descriptors are non-blocking", code);
    } else {
        check(answer.fd == -1, file, line, "fd must be -1", code);
    }
    if (code > TAILNET_PENDING && answer.buf == text) {
        snprintf(number, sizeof number, "{\"code\":%d,\"message\":\"", (int)code);
        check(strncmp(text, number, strlen(number)) == 0, file, line, "error document", code);
        check(answer.len == room || text[answer.len - 1] == '}', file, line, "the document is whole, or cut to cap", code);
    }
}

int32_t ask(tailnet_handle node, tailnet_str operation, tailnet_answer *into) { return tailnet_ask(node, operation, "{}", -1, into); }

int32_t ask_whois(tailnet_handle node, tailnet_str address, tailnet_answer *into) {
    static const char FORM[] = "{\"address\":\"%s\"}";
    size_t size = sizeof FORM + (address ? strlen(address) : 0);
    char *args = address ? malloc(size) : NULL;
    if (args) snprintf(args, size, FORM, address);
    int32_t code = tailnet_ask(node, "whois", args, -1, into);
    free(args);
    return code;
}

int await(int fd, short events, int milliseconds) {
    struct pollfd one = {.fd = fd, .events = events};
    int n;
    do n = poll(&one, 1, milliseconds);
    while (n < 0 && errno == EINTR); /* Go's preemption signal may reach a thread of ours that has called it */
    return n == 1;
}

size_t receive(const char *file, int line, int whole, const char *begins) {
    static _Thread_local char rest[ROOM];
    size_t total = 0;
    ssize_t n = 1;
    text[0] = 0;
    while (n > 0) {
        if (!await(answer.fd, POLLIN, PATIENCE * 1000)) break;
        if (whole == LINE) n = read(answer.fd, text + total, total < ROOM - 1);
        else n = total < ROOM - 1 ? read(answer.fd, text + total, ROOM - 1 - total) : read(answer.fd, rest, sizeof rest);
        if (n < 0 && (errno == EAGAIN || errno == EINTR)) n = 1; /* woken for nothing */
        else if (n > 0) total += (size_t)n;
        if (n > 0 && total && (whole == SOME || (whole == LINE && text[total - 1] == '\n'))) n = 0;
    }
    answer.len = total < ROOM - 1 ? (int32_t)total : ROOM - 1;
    text[answer.len] = 0;
    check(n == 0, file, line, "the reply must end", TAILNET_PENDING);
    check(strncmp(text, begins, strlen(begins)) == 0, file, line, begins, TAILNET_PENDING);
    check(whole == SOME || !total || total >= ROOM || text[total - 1] == '\n', file, line, "the document is whole",
          TAILNET_PENDING);
    check(whole == LINE || close(answer.fd) == 0, file, line, "the descriptor is ours to close", TAILNET_PENDING);
    return total;
}

void cancel(const char *file, int line) {
    check(shutdown(answer.fd, SHUT_RDWR) == 0, file, line, "the descriptor is a socket", TAILNET_PENDING);
    check(close(answer.fd) == 0, file, line, "the descriptor is open", TAILNET_PENDING);
}

int settle(const char *file, int line, const char *condition, int (*holds)(long), long argument) {
    struct timespec now, start;
    clock_gettime(CLOCK_MONOTONIC, &start);
    for (;;) {
        if (holds(argument)) return 1;
        clock_gettime(CLOCK_MONOTONIC, &now);
        if (now.tv_sec - start.tv_sec >= PATIENCE) break;
        poll(NULL, 0, 5);
    }
    answer.len = 0;
    check(0, file, line, condition, 0);
    return 0;
}

long descriptors(void) {
    long count = -1; /* the directory's own */
    DIR *directory = opendir("/dev/fd"); /* Linux and macOS */
    if (!directory) abort();
    for (struct dirent *entry; (entry = readdir(directory));) count += entry->d_name[0] != '.';
    closedir(directory);
    return count;
}

char *last_byte(void) {
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    int zero = open("/dev/zero", O_RDWR); /* not the heap, which the leak checker reads */
    char *pages = mmap(NULL, 2 * page, PROT_READ | PROT_WRITE, MAP_PRIVATE, zero, 0);
    if (pages == MAP_FAILED || mprotect(pages + page, page, PROT_NONE)) abort();
    close(zero);
    return pages + page - 1;
}

static const char *behind(const char *document, const char *name) {
    char key[64];
    snprintf(key, sizeof key, "\"%s\":", name);
    const char *found = strstr(document, key);
    return found ? found + strlen(key) : NULL;
}

long field(const char *name) {
    const char *value = behind(text, name);
    return value ? strtol(value, NULL, 10) : -1;
}

long stats(const char *name) {
    char document[1024] = "";
    tailnet_answer a = {.buf = document, .cap = sizeof document - 1};
    const char *value = tailnet_stats(&a) == TAILNET_OK ? behind(document, name) : NULL;
    return value ? strtol(value, NULL, 10) : -1;
}

void quote(char *into, size_t size, const char *name) {
    const char *value = behind(text, name);
    size_t length = value && *value == '"' ? strcspn(value + 1, "\"") : 0;
    snprintf(into, size, "%.*s", (int)length, length ? value + 1 : "");
}

int finish(const char *program) {
    printf("%s: %d checks, %d failed\n", program, checks, failures);
    return failures != 0;
}
