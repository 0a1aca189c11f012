// The second stage: the runner again, with empty memory, becomes the program. It may be ptraced and killed: nothing is in it.
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "runner.h"

static void report(enum launch_about about, enum why why, int error) {
    struct launch_report told = {.about = about, .why = why, .error = (uint32_t)error, .begun_ns = now_ns()};
    if (write(LAUNCH_FD, &told, sizeof told) != sizeof told)
        _exit(127);
}

static void fail(enum launch_about about, enum why why, int error) {
    report(about, why, error);
    _exit(127);
}

// By the kernel's own call: a C library keeps some numbers for itself, and whoever started the runner may have ignored those, too.
static void default_signals(void) {
    static const unsigned long all_zero[4];  // the default, without flags or mask, in each architecture's layout
    sigset_t none;
    for (int number = 1; number <= 64; number++)
        syscall(SYS_rt_sigaction, number, all_zero, NULL, 8);
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
}

// A program that fills the memory is killed before the runner is.
static void be_killed_first(void) {
    int file = open("/proc/self/oom_score_adj", O_WRONLY | O_CLOEXEC);
    if (file < 0 || write(file, "1000", 4) != 4)
        fail(ABOUT_OOM, WHY_OTHER, errno);
    close(file);
}

static void set_rlimits(char **texts, int count) {
    for (int i = 0; i < count; i++) {
        char *rest;
        struct rlimit limit;
        int resource = (int)strtol(texts[i], &rest, 10);
        limit.rlim_cur = strtoull(rest + 1, &rest, 10);
        limit.rlim_max = strtoull(rest + 1, &rest, 10);
        if (setrlimit((unsigned)resource, &limit))
            fail(ABOUT_RLIMIT, WHY_OTHER, errno);
    }
}

static enum why why_not(const char *path, int error) {
    struct stat found;
    bool there = !stat(path, &found);
    switch (error) {
    case ENOENT: return there ? WHY_NO_INTERPRETER : WHY_NO_PROGRAM;
    case ENOTDIR: return WHY_NO_PROGRAM;
    case EACCES: return there && S_ISDIR(found.st_mode) ? WHY_FOLDER : WHY_NOT_EXECUTABLE;
    case E2BIG: return WHY_TOO_LONG;
    case EAGAIN:
    case ENOMEM: return WHY_NO_PROCESS;
    default: return WHY_OTHER;
    }
}

// Comes back only where it failed. Before argv there are the launch's own arguments, so there is a place for the shell.
static int become(char *path, char **argv) {
    execv(path, argv);
    if (errno != ENOEXEC)
        return errno;
    char **shell = argv - 1, *before = shell[0], *name = argv[0];
    shell[0] = "/bin/sh";
    shell[1] = path;
    execv(shell[0], shell);
    shell[0] = before;
    argv[0] = name;
    return errno;
}

static void become_named(char *path, char **argv) {
    int error = become(path, argv);
    fail(ABOUT_PROGRAM, why_not(path, error), error);
}

static void become_found(char **argv) {
    static char path[PATH_SIZE];
    const char *folders = getenv("PATH");
    int kept = ENOENT;
    enum why why = WHY_NO_PROGRAM;
    for (const char *at = folders ? folders : "/usr/local/bin:/usr/bin:/bin"; at; at = strchr(at, ':') ? strchr(at, ':') + 1 : NULL) {
        size_t length = strcspn(at, ":"), name = strlen(argv[0]);
        if (length + name + 3 > sizeof path)
            continue;
        memcpy(path, length ? at : ".", length ? length : 1);
        length = length ? length : 1;
        path[length] = '/';
        memcpy(path + length + 1, argv[0], name + 1);
        int error = become(path, argv);
        enum why here = why_not(path, error);
        if (here == WHY_NO_PROGRAM)
            continue;
        kept = error;
        why = here;
        if (error != EACCES)
            break;
    }
    fail(ABOUT_PROGRAM, why, kept);
}

int launch(int argc, char **argv) {
    if (argc < LAUNCH_FIXED + 1 || atoi(argv[5]) < 0 || argc < LAUNCH_FIXED + atoi(argv[5]) + 1)
        return 127;
    int limits = atoi(argv[5]);
    char **program = argv + LAUNCH_FIXED + limits;
    fcntl(LAUNCH_FD, F_SETFD, FD_CLOEXEC);
    if (*argv[4] == '0')
        close(3);
    setsid();
    default_signals();
    be_killed_first();
    umask((mode_t)strtoul(argv[3], NULL, 10) & 0777);
    if (chdir(argv[2]))
        fail(ABOUT_CWD, WHY_NO_CWD, errno);
    set_rlimits(argv + LAUNCH_FIXED, limits);
    report(ABOUT_BEGIN, 0, 0);
    if (strchr(program[0], '/'))
        become_named(program[0], program);
    if (!*program[0])
        fail(ABOUT_PROGRAM, WHY_NO_PROGRAM, ENOENT);
    become_found(program);
    return 127;
}
