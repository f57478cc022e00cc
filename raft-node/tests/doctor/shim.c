/* Faults of a machine, for a process that loads this first: a wall clock that is wrong by SHIM_CLOCK_SECONDS, and syncs
 * that take SHIM_SYNC_MILLISECONDS longer. */
#define _GNU_SOURCE
#include <stdlib.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

static long setting(const char *name) {
    const char *text = getenv(name);
    return text ? atol(text) : 0;
}

int clock_gettime(clockid_t clock, struct timespec *time) {
    long result = syscall(SYS_clock_gettime, clock, time);
    if (result == 0 && clock == CLOCK_REALTIME) time->tv_sec += setting("SHIM_CLOCK_SECONDS");
    return (int)result;
}

static void delay(void) {
    long milliseconds = setting("SHIM_SYNC_MILLISECONDS");
    struct timespec time = {milliseconds / 1000, milliseconds % 1000 * 1000000};
    if (milliseconds > 0) nanosleep(&time, NULL);
}

int fdatasync(int fd) {
    delay();
    return (int)syscall(SYS_fdatasync, fd);
}

int fsync(int fd) {
    delay();
    return (int)syscall(SYS_fsync, fd);
}
