// The two fifos of a program that talks with one in another container. Its runner opens them, and waits for the other's runner before
// it starts the program, which is given the runner's own ends. The runner keeps them until it has reaped the program: so the other
// program sees this one's end only after this runner has, and who ended first is known, however late a runner is.
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
    int fd = open(path, how | O_NONBLOCK | O_NOFOLLOW | O_NOCTTY | O_CLOEXEC);
    if (fd < 0)
        return -1;
    bool fine = !fstat(fd, &found) && S_ISFIFO(found.st_mode);
    if (!fine) {
        close(fd);
        errno = EINVAL;
        return -1;
    }
    return high_fd(fd);
}

// The greeting: one byte, from each runner to the other, once it has both ends open. A writer's end cannot be opened before there is
// a reader's, so the first to come greets second.
static bool greet(void) {
    run.held[1] = open_fifo(run.stdout_fifo, O_WRONLY);
    return run.held[1] >= 0 && write(run.held[1], "", 1) == 1;
}

bool open_fifos(void) {
    run.looks[0] = run.looks[1] = 0;
    run.held[0] = open_fifo(run.stdin_fifo, O_RDONLY);
    if (run.held[0] < 0)
        return false;
    return greet() || errno == ENXIO;
}

enum met meet(void) {
    char greeting;
    ssize_t got = read(run.held[0], &greeting, 1);
    if (got < 0 && (errno == EAGAIN || errno == EINTR))
        return NOT_YET;
    struct pollfd look = {run.held[0], POLLIN, 0};
    if (got == 0 && !(poll(&look, 1, 0) > 0 && (look.revents & POLLHUP)))
        return NOT_YET;  // nobody has come
    if (got != 1 || (run.held[1] < 0 && !greet()))
        return LEFT_ALONE;
    for (int which = 0; which < 2; which++)
        fcntl(run.held[which], F_SETFL, fcntl(run.held[which], F_GETFL) & ~O_NONBLOCK);
    return MET;
}

// The output first: who dies of SIGPIPE then has an input that is over, so that its runner knows who has left first.
void let_fifos_go(void) {
    shut(&run.held[1]);
    shut(&run.held[0]);
}

// A program may close its input or its output and go on: then the other one is to see that.
void look_at_fifos(void) {
    for (int which = 1; which >= 0; which--) {  // in the order of let_fifos_go: it may be about to end
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
