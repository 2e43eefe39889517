//go:build tailnet_coverage

/* Writes what `make coverage` counts. Go does so when its own main() ends, which a library has not. */
#include <unistd.h>

void write_coverage(void); /* coverage.go */

static pid_t loaded_by;

__attribute__((constructor)) static void remember(void) { loaded_by = getpid(); }

__attribute__((destructor)) static void at_exit(void) {
	if (getpid() == loaded_by) { /* in a forked child nothing of Go runs */
		write_coverage();
	}
}
