/*
 * The calls that programs make all the time, and that do not enter Go: a note in a pipe, or a look
 * at memory that Go writes.
 *
 * A thread of C's that returns from Go keeps one of Go's processors, until the runtime's monitor
 * finds it idle and takes it back, which takes two of its sleeps (runtime/proc.go, retake). Where
 * Go has one or two of them, everything that goes through the node waits for that.
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>
#ifdef __linux__
#include <sys/prctl.h>
#endif

#include "direct.h"
#include "tailnet.h"

static struct tailnet_shared ours;
struct tailnet_shared *tailnet_shared = &ours;

/* Before Go starts. Without it, forked children see no resets. */
__attribute__((constructor(101))) static void share(void) {
    void *memory = mmap(NULL, sizeof *tailnet_shared, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANON, -1, 0);
    if (memory != MAP_FAILED) tailnet_shared = memory;
}

#ifdef __linux__
/*
 * Go's monitor sleeps for 20 us at a time while anything happens, and begins anew whenever Go had
 * nothing to do, several times in a round trip: it made more than half of the context switches of a
 * short connection. Its timers have the slack of the thread that loads the library, because
 * `coarse` runs before Go's own start there and `fine` after it. Go's other threads inherit it, and
 * a tailscaled that they start: whatever waits for a time there may be late by as much. What it brings, and why not more:
 * docs/performance.md.
 */
#define SLACK_NS 2000000L
static long slack;
__attribute__((constructor(101))) static void coarse(void) {
    slack = prctl(PR_GET_TIMERSLACK);
    prctl(PR_SET_TIMERSLACK, SLACK_NS);
}
__attribute__((constructor)) static void fine(void) { prctl(PR_SET_TIMERSLACK, slack); }
#endif

uint64_t tailnet_generation(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return __atomic_load_n(&tailnet_shared->generation, __ATOMIC_SEQ_CST) << 32 | (uint32_t)now.tv_sec;
}

int32_t tailnet_connection_end(uint64_t connection) {
    uint64_t *latest = &tailnet_shared->resets[connection % TAILNET_RESETS];
    return connection && __atomic_load_n(latest, __ATOMIC_SEQ_CST) == connection ? TAILNET_E_RESET : TAILNET_OK;
}

static int notes = -1; /* a note is shorter than PIPE_BUF, so the pipe keeps it in one piece */
static pid_t owner;    /* a note holds addresses of this process */
static struct stat pipe_of_notes;

void tailnet_begin_direct(int pipe) {
    notes = pipe;
    owner = getpid();
    fstat(pipe, &pipe_of_notes);
}

int32_t tailnet_intact(void) {
    struct stat now;
    if (fstat(notes, &now)) return TAILNET_E_CLOSED;
    return now.st_dev == pipe_of_notes.st_dev && now.st_ino == pipe_of_notes.st_ino ? TAILNET_OK : TAILNET_E_CLOSED;
}

static int pair(int ends[2]) {
#ifdef SOCK_CLOEXEC
    return socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, ends);
#else
    if (socketpair(AF_UNIX, SOCK_STREAM, 0, ends)) return -1;
    for (int i = 0; i < 2; i++) {
        fcntl(ends[i], F_SETFD, FD_CLOEXEC);
        fcntl(ends[i], F_SETFL, O_NONBLOCK);
    }
    return 0;
#endif
}

static int32_t refuse(tailnet_answer *answer, int32_t code, const char *call, const char *why, int error) {
    if (answer->buf && answer->cap > 0) {
        const char *help = error == EMFILE ? "; close some files or sockets, or raise the limit (ulimit -n)" : "";
        char text[240];
        int length = snprintf(text, sizeof text, "{\"code\":%d,\"message\":\"%s: %s%s\",\"errno\":%d}", code, call, why, help, error);
        answer->len = length < answer->cap ? length : answer->cap;
        memcpy(answer->buf, text, (size_t)answer->len);
    }
    return code;
}

static int post(const struct tailnet_note *note) {
    ssize_t written;
    if (tailnet_intact() != TAILNET_OK) { /* or the note would go into a file of the program's */
        errno = EBADF;
        return 0;
    }
    do written = write(notes, note, sizeof *note);
    while (written < 0 && errno == EINTR);
    return written == sizeof *note;
}

int32_t tailnet_set(uint64_t connection_or_listener, int32_t option, int32_t value) {
    struct tailnet_note note = {.node = connection_or_listener, .fd = -1, .descriptor = -1, .option = option, .value = value};
    struct pollfd room = {.fd = notes, .events = POLLOUT};
    if (option < TAILNET_KEEPALIVE || option > TAILNET_USER_TIMEOUT) return TAILNET_E_ARGUMENT;
    /* A forked child has both ends of the pipe: with its parent gone, it would fill it and then wait. */
    if (getpid() != owner && poll(&room, 1, 0) != 1) return TAILNET_E_RESOURCE;
    return post(&note) ? TAILNET_OK : TAILNET_E_RESOURCE;
}

/* Give back what a note that nobody will read holds. */
static void drop(struct tailnet_note *note) {
    free(note->operation);
    free(note->args);
    if (note->descriptor >= 0) close(note->descriptor);
    if (note->fd >= 0) close(note->fd);
}

static int32_t leave_note(const char *call, tailnet_handle node, tailnet_str operation, tailnet_str args, int32_t descriptor,
                          tailnet_answer *answer) {
    int ends[2] = {-1, -1};
    struct tailnet_note note = {.node = node, .fd = -1, .descriptor = -1};
    if (getpid() != owner) return refuse(answer, TAILNET_E_ARGUMENT, call, "called after fork()", EINVAL);
    if ((operation && !(note.operation = strdup(operation))) || !(note.args = strdup(args))) goto failed;
    /* Duplicated here, so that the caller may close its own as soon as the call has returned; and
     * before the pair, which could take the number of one that is closed. */
    if (descriptor >= 0 && (note.descriptor = fcntl(descriptor, F_DUPFD_CLOEXEC, 3)) < 0) goto failed;
    if (pair(ends)) goto failed;
    note.fd = ends[1];
    if (post(&note)) {
        answer->fd = ends[0];
        return TAILNET_PENDING;
    }
failed:;
    int error = errno;
    drop(&note);
    if (ends[0] >= 0) close(ends[0]);
    return refuse(answer, error == EBADF ? TAILNET_E_ARGUMENT : TAILNET_E_RESOURCE, call, strerror(error), error);
}

int32_t tailnet_dial(tailnet_handle node, tailnet_str address, tailnet_answer *answer) {
    if (!answer) return TAILNET_E_ARGUMENT;
    answer->len = 0;
    answer->fd = -1;
    if (!address) return refuse(answer, TAILNET_E_ARGUMENT, "dial", "address is NULL", EINVAL);
    return leave_note("dial", node, NULL, address, -1, answer);
}

int32_t tailnet_ask(tailnet_handle node, tailnet_str operation, tailnet_str args, int32_t descriptor, tailnet_answer *answer) {
    if (!answer) return TAILNET_E_ARGUMENT;
    answer->len = 0;
    answer->fd = -1;
    if (!operation) return refuse(answer, TAILNET_E_ARGUMENT, "ask", "operation is NULL", EINVAL);
    if (!args) return refuse(answer, TAILNET_E_ARGUMENT, "ask", "args is NULL", EINVAL);
    int plain = *operation && strspn(operation, "abcdefghijklmnopqrstuvwxyz_") == strlen(operation);
    return leave_note(plain ? operation : "ask", node, operation, args, descriptor, answer); /* it is quoted in JSON */
}
