/*
 * checks.h: what the programs of this directory share. Each drives go/tailnet.h from C and nothing
 * else, prints each broken expectation, and ends with 1 if there was any.
 *
 * Every call must answer with the documented code and fill the answer as the header says: an error
 * with its document, a pending call with a descriptor that is non-blocking and close-on-exec; and
 * what the library has no business to write must keep the garbage it holds.
 *
 * tests/test_contract.py compiles and runs the programs: smoke.c first, for what each function is
 * given in the ordinary; input.c, for bad input; answers.c, for room of every size; race.c, for calls that meet a close; joined.c, for
 * a connection from end to end.
 */
#ifndef CHECKS_H
#define CHECKS_H

#include <stddef.h>
#include <sys/types.h>

#include "tailnet.h"

#define ROOM 65536
#define COUNT(array) (sizeof(array) / sizeof *(array))

/* Of each thread: the answer of its last call. */
extern _Thread_local char text[ROOM];
extern _Thread_local tailnet_answer answer;

/* An answer with room, and with garbage in what the library is to write. */
tailnet_answer *fresh(void);

/* Says in what follows, until the next note, what was called, and with what. */
void note(const char *format, ...) __attribute__((format(printf, 1, 2)));

void check(int ok, const char *file, int line, const char *what, int32_t code);
void expect(const char *file, int line, const char *call, int32_t want, int32_t code);
size_t receive(const char *file, int line, int whole, const char *begins);
void cancel(const char *file, int line);
int settle(const char *file, int line, const char *condition, int (*holds)(long), long argument);
int finish(const char *program);

#define CHECK(ok, what) check((ok), __FILE__, __LINE__, (what), 0)

/* The call must return `want`; an error must bring its own document, and no descriptor. */
#define EXPECT(want, call) expect(__FILE__, __LINE__, #call, (want), (call))

/* Without an answer to fill there is only the code. */
#define EXPECT_CODE(want, call) \
    do { \
        int32_t code = (call); \
        check(code == (want), __FILE__, __LINE__, #call, code); \
    } while (0)

/* Read what comes on the descriptor until EOF, and close it; return how much it was. */
enum { SOME, WHOLE, LINE };
#define RECEIVE(begins) receive(__FILE__, __LINE__, WHOLE, (begins))

/* The same of a dial: only its answer; the descriptor is the connection, and stays open. */
#define RECEIVE_LINE(begins) receive(__FILE__, __LINE__, LINE, (begins))

/* The same of a stream, which need not end: only its first piece. */
#define RECEIVE_SOME(begins) receive(__FILE__, __LINE__, SOME, (begins))

#define CANCEL() cancel(__FILE__, __LINE__)

/* Wait until a condition holds; its name is printed where it never does. */
#define SETTLE(condition, holds, argument) settle(__FILE__, __LINE__, (condition), (holds), (argument))

/* tailnet_ask without arguments, and its "whois"; the address goes into the JSON as it is. */
int32_t ask(tailnet_handle node, tailnet_str operation, tailnet_answer *answer);
int32_t ask_whois(tailnet_handle node, tailnet_str address, tailnet_answer *answer);

int await(int fd, short events, int milliseconds); /* whether poll(2) found something */
int documented(int32_t code);
char *last_byte(void);                      /* the last byte, 0, of a page; the page after it must not be touched */
long descriptors(void);                     /* how many this process has open */
long field(const char *name);               /* the number behind "name": in text */
long stats(const char *name);               /* the same of tailnet_stats; leaves text alone */
void quote(char *into, size_t size, const char *name); /* the string behind "name": in text */

#endif
