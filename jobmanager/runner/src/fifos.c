// The fifos of a program that talks with one in another container. The runner keeps both ends open, so that the other program sees
// this one's end only after the runner has: then who ended first is known, however late a runner is.
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

#include "run.h"

#define LOOKS_UNTIL_CLOSED 2     // a program that is ending is reaped meanwhile

static int open_fifo(const char *path, int how) {
    struct stat found;
    int fd = *path == '/' ? open(path, how | O_NONBLOCK | O_NOFOLLOW | O_NOCTTY | O_CLOEXEC) : -1;
    if (fd < 0)
        return -1;
    if (!fstat(fd, &found) && S_ISFIFO(found.st_mode))
        return high_fd(fd);
    close(fd);
    return -1;
}

// To open one for writing alone takes a reader, who may not have come: the runner is it for a moment.
static int open_to_write(const char *path) {
    char again[32];
    int both = open_fifo(path, O_RDWR);
    if (both < 0)
        return -1;
    snprintf(again, sizeof again, "/proc/self/fd/%d", both);
    int fd = open(again, O_WRONLY | O_NONBLOCK | O_CLOEXEC);
    close(both);
    return fd < 0 ? -1 : high_fd(fd);
}

void hold_fifos(void) {
    run.held[0] = run.input_kind == INPUT_PATH ? open_fifo(run.stdin_path, O_RDONLY) : -1;
    run.held[1] = *run.stdout_path ? open_to_write(run.stdout_path) : -1;
    run.looks[0] = run.looks[1] = 0;
}

void let_fifos_go(void) {
    shut(&run.held[0]);
    shut(&run.held[1]);
}

// A program may close its input or its output and go on: then the other one is to see that.
void look_at_fifos(void) {
    for (int which = 0; which < 2; which++) {
        struct stat held, found;
        char path[48];
        if (run.held[which] < 0 || fstat(run.held[which], &held))
            continue;
        snprintf(path, sizeof path, "/proc/%d/fd/%d", (int)run.pid, which);
        bool closed = stat(path, &found) ? errno == ENOENT : found.st_ino != held.st_ino || found.st_dev != held.st_dev;
        run.looks[which] = closed ? run.looks[which] + 1 : 0;
        if (run.looks[which] == LOOKS_UNTIL_CLOSED)
            shut(&run.held[which]);
    }
}

// Whether there was a writer, and there is none any more.
bool input_is_over(void) {
    struct pollfd look = {run.held[0], POLLIN, 0};
    return run.held[0] >= 0 && poll(&look, 1, 0) > 0 && (look.revents & POLLHUP);
}
