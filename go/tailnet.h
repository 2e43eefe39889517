/*
 * tailnet.h: the contract between the Go library and everything above it.
 *
 * This file is the single source: cgo includes it (so a Go export whose
 * signature drifts does not compile) and build_ffi.py feeds the part between
 * the CDEF marks to cffi.
 *
 * Rules, for every function:
 *
 *  - It returns at once, with an int32_t code (but tailnet_generation). Nothing here waits for a network,
 *    a disk or another process.
 *  - TAILNET_OK: the answer, if there is one, is a JSON document of answer->len
 *    bytes in answer->buf.
 *  - TAILNET_PENDING: the answer comes later, on the socket answer->fd.
 *      A *reply* is one JSON document of any size, and a newline:
 *          {"ok": ...}   or   {"error": {"code": 7003, "message": "..."}}
 *      An answer too large for answer->buf also takes this way.
 *      A *stream* is one JSON object per line; the last one is a reply's, and then
 *      comes EOF. A reader that falls behind finds {"lost": n} in it and never slows
 *      the library down.
 *  - Any other code is an error, and answer->buf holds its document (the object
 *    behind "error" above) in answer->len bytes, cut to answer->cap.
 *  - Outputs are written only as said above. There is no "last error".
 *  - Cancelling: shutdown(fd, SHUT_RDWR), then close(fd), in the process that made
 *    the call. That ends the operation and frees what it made. A forked child
 *    merely closes its copy.
 *  - Strings are UTF-8 and NUL-terminated, and copied before the call returns.
 *    Structured arguments are JSON objects; an unknown field is an error.
 *  - A handle is an integer that is never used twice; 0 is never valid; a closed
 *    or made-up one gives TAILNET_E_HANDLE. *_close may be called twice.
 *  - Descriptors handed out are non-blocking, close-on-exec, and the caller's to
 *    close.
 *  - Any thread may call. Nothing but tailnet_connection_end and tailnet_set may be called after fork().
 *  - Go panics end at this boundary, as TAILNET_E_INTERNAL.
 *  - An `answer` that is NULL, or a NULL string, gives TAILNET_E_ARGUMENT.
 */
#ifndef TAILNET_H
#define TAILNET_H

#include <stdint.h>

/* CDEF BEGIN */
enum {
    TAILNET_OK = 0,
    TAILNET_PENDING = 7001,

    TAILNET_E_ARGUMENT = 7002,        /* a NULL, a string that is not UTF-8, wrong JSON: the caller's bug */
    TAILNET_E_INTERNAL = 7003,        /* our bug: a recovered panic or an impossible state */
    TAILNET_E_HANDLE = 7004,          /* closed, or never existed */
    TAILNET_E_CONFIG = 7005,          /* a value that cannot be used */
    TAILNET_E_AUTH = 7006,            /* the control server refuses the key or the node */
    TAILNET_E_LOGIN_REQUIRED = 7007,  /* a person must visit "url" */
    TAILNET_E_APPROVAL_REQUIRED = 7008, /* an admin must approve the machine */
    TAILNET_E_CONNECT = 7009,         /* the control server cannot be reached; "retry_after" seconds if it said so */
    TAILNET_E_NOT_RUNNING = 7010,     /* tailscaled: absent, stopped, or not permitted */
    TAILNET_E_TIMEOUT = 7011,         /* the caller's deadline passed */
    TAILNET_E_DIAL = 7012,            /* a dial failed for a reason without a code of its own */
    TAILNET_E_REFUSED = 7013,         /* the other side refused the connection */
    TAILNET_E_UNREACHABLE = 7014,     /* not on the tailnet, or no route to it */
    TAILNET_E_NAME = 7015,            /* the name is not known on the tailnet */
    TAILNET_E_ADDRESS_IN_USE = 7016,  /* another listener of this node has the port */
    TAILNET_E_ADDRESS_NOT_AVAILABLE = 7017, /* the address is not one of this node's */
    TAILNET_E_STATE_LOCKED = 7018,    /* another process or node holds the state directory */
    TAILNET_E_UNSUPPORTED = 7019,     /* this backend, platform or tailnet cannot do it */
    TAILNET_E_CLOSED = 7020,          /* used after close, or closed meanwhile */
    TAILNET_E_NOT_FOUND = 7021,       /* whois: no such peer */
    TAILNET_E_RESET = 7022,           /* the connection was aborted */
    TAILNET_E_RESOURCE = 7023         /* this machine has no more of something: "errno" says of what */
};

typedef const char *tailnet_str; /* named, because Go cannot spell "const char *" */
typedef uint64_t tailnet_handle;

typedef struct {
    char *buf;   /* in: room for the answer or the error; may be NULL with cap 0 */
    int32_t cap; /* in: its size in bytes */
    int32_t len; /* out: bytes written to buf */
    int32_t fd;  /* out: with TAILNET_PENDING, the reply or stream; otherwise -1 */
} tailnet_answer;

/* Socket options of TCP that tailnet_set sets. */
enum {
    TAILNET_KEEPALIVE = 0,    /* SO_KEEPALIVE: 0 or 1 */
    TAILNET_KEEPIDLE = 1,     /* TCP_KEEPIDLE, in seconds */
    TAILNET_KEEPINTVL = 2,    /* TCP_KEEPINTVL, in seconds */
    TAILNET_KEEPCNT = 3,      /* TCP_KEEPCNT */
    TAILNET_USER_TIMEOUT = 4  /* TCP_USER_TIMEOUT, in milliseconds; 0 brings the default back */
};

/* OK {"tailnet", "tailscale", "go"}: the version of each. */
extern int32_t tailnet_versions(tailnet_answer *answer);

/* OK: the library has its descriptors. TAILNET_E_CLOSED: the program has closed them, as
 * closefrom(3) does. Call nothing else then: Go aborts the process when it notices. */
extern int32_t tailnet_intact(void);

/* OK {"goroutines", "own_goroutines", "nodes", "listeners", "connections", "heap_bytes", "stack_bytes"}:
 * what the library holds now, for leak checks and support. The goroutines are all of the
 * Go runtime; its own are those that are not Tailscale's, which come and go as that likes. */
extern int32_t tailnet_stats(tailnet_answer *answer);

/* PENDING, stream of {"time", "node", "level", "message"}: log lines of every node, from now on. */
extern int32_t tailnet_logs(tailnet_answer *answer);

/* OK: a node that has not joined. `config` is the JSON of go/internal/config Config.
 * Nothing is opened and nothing leaves the process before tailnet_node_up. */
extern int32_t tailnet_node_new(tailnet_str config, tailnet_handle *node, tailnet_answer *answer);

/* PENDING, reply {"hostname", "fqdn", "ips", ...}: one attempt to join.
 * `args` is {"wait_for_person": bool, "known_url": str}: with wait_for_person, go on waiting where
 * TAILNET_E_LOGIN_REQUIRED (for known_url) or TAILNET_E_APPROVAL_REQUIRED would end the attempt.
 * After those two, or when cancelled, the attempt goes on: the next call takes it over. After any
 * other error the node has not joined, and has the same keys at its next attempt. */
extern int32_t tailnet_node_up(tailnet_handle node, tailnet_str args, tailnet_answer *answer);

/* PENDING, reply {"drained": bool}: refuse new work, let every connection drain for at most
 * `timeout_ms`, then leave. The handle is invalid from the call on; the work is done whether or
 * not the reply is read, or could be made. A second call answers OK. */
extern int32_t tailnet_node_close(tailnet_handle node, int32_t timeout_ms, tailnet_answer *answer);

/* PENDING, reply {"ip", "port", "options"}. `args` is {"address": "[ip]:port", "path": "...", "backlog": n}:
 * connections to the address arrive at the unix listening socket at `path`, from a socket named
 * "\0<nonce>/<connection>/<peer address>". The listener's handle is valid from the call on.
 * "options" are the values that its connections begin with, in the order of the enum above; null
 * where tailnet_set has no effect. */
extern int32_t tailnet_listen(tailnet_handle node, tailnet_str args, tailnet_handle *listener, tailnet_answer *answer);

/* OK. New connections are refused from now on; those handed over stay. */
extern int32_t tailnet_listener_close(tailnet_handle listener);

/* PENDING, reply {"connection", "local", "remote", "whole": bool, "options"}. "options" are as of
 * tailnet_listen. With "whole", shutting one
 * direction down ends the other one too. `address` is "host:port"; the host is an IP address or a
 * name of the tailnet. answer->fd becomes the connection: the reply is the first line that arrives
 * on it, the connection's bytes follow, and before it nothing may be written. After an error comes
 * EOF. What is wrong with `node` and `address` is said in the reply, too. */
extern int32_t tailnet_dial(tailnet_handle node, tailnet_str address, tailnet_answer *answer);

/* OK: the connection `connection` is open, ended in order, or is long gone.
 * TAILNET_E_RESET: it was aborted, by the peer or by the network. Only the latest are known.
 * A forked child may ask, of its parent's connections. */
extern int32_t tailnet_connection_end(uint64_t connection);

/* OK: the option of the connection, or of those that the listener hands over from now on, will be
 * `value`, after whatever was set before. A number that is gone is no error, nor is a connection
 * whose options nobody can set. TAILNET_E_ARGUMENT: no such option. TAILNET_E_RESOURCE: in a forked
 * child, which may set options of its parent's connections, the parent reads no more. */
extern int32_t tailnet_set(uint64_t connection_or_listener, int32_t option, int32_t value);

/* No code but a number, which changes with every network map and state of every node, and every
 * second: not every change of what somebody may do is told. */
extern uint64_t tailnet_generation(void);

/* PENDING: asks a question about a node, one of those that tailnet_operations lists. `args` is that
 * operation's JSON object. `descriptor` is -1, or one that goes along: the library takes a duplicate
 * before the call returns, and the caller keeps its own. What is wrong with `node`, `operation` and
 * `args` is said in the reply. The operation's kind says what comes on answer->fd:
 *   reply:  one line, {"ok": ...} or {"error": ...}
 *   stream: one event a line; the last line is {"ok": null} or {"error": ...}
 * An answer about somebody holds until tailnet_generation() is not what it was before the call. */
extern int32_t tailnet_ask(tailnet_handle node, tailnet_str operation, tailnet_str args, int32_t descriptor, tailnet_answer *answer);

/* OK {name: {"about", "kind", "args", "answers", "sidecar"}}: every operation of tailnet_ask, with its
 * arguments, what it answers, and what differs through a tailscaled. docs/operations.md is made of it. */
extern int32_t tailnet_operations(tailnet_answer *answer);

/* PENDING, reply {"url", "untrusted_url", "domain", "pid"}: an offline control server with a DERP relay
 * and STUN on 127.0.0.1, in this process, until the process ends. For tailnet.testing. */
extern int32_t tailnet_testcontrol_start(tailnet_str config, tailnet_handle *control, tailnet_answer *answer);

/* PENDING, reply: `args` is {"do": "...", "with": {...}}; see go/internal/testcontrol/do.go. */
extern int32_t tailnet_testcontrol_do(tailnet_handle control, tailnet_str args, tailnet_answer *answer);
/* CDEF END */

#endif
