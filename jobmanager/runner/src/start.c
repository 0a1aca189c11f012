// A run is started: its pipes, its second stage, and what that tells.
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "files.h"
#include "run.h"

static bool check_volumes(void) {
    struct in list = run.volumes;
    static char path[PATH_SIZE], device[PATH_SIZE];
    for (uint32_t i = 0; i < run.volume_count; i++) {
        struct stat found;
        char real[32];
        in_name(&list, path, sizeof path);
        in_name(&list, device, sizeof device);
        if (stat(path, &found)) {
            refuse_text(WHY_DEVICE, errno, path);
            return false;
        }
        snprintf(real, sizeof real, "%u:%u", major(found.st_dev), minor(found.st_dev));
        if (*device && strcmp(device, real)) {
            refuse_text(WHY_DEVICE, 0, path);
            return false;
        }
    }
    return true;
}

// As check_volumes saw them; a long list is cut to what a message can have.
static void report_started(void) {
    struct in list = run.volumes;
    static char path[PATH_SIZE];
    up_begin(UP_STARTED, run.number);
    up_u32(run.volume_count);
    for (uint32_t i = 0; i < run.volume_count; i++) {
        struct stat found = {0};
        char real[32];
        in_name(&list, path, sizeof path);
        skip_name(&list);
        int length = stat(path, &found) ? 0 : snprintf(real, sizeof real, "%u:%u", major(found.st_dev), minor(found.st_dev));
        up_text(path, strlen(path));
        up_text(real, (size_t)length);
    }
    up_end();
}

static bool started_fits(void) { return run.volumes.end - run.volumes.at < (ptrdiff_t)UP_PAYLOAD / 2 && run.volume_count < 512; }

static bool make_pipe(int *ours, int *theirs, bool we_read) {
    int ends[2];
    if (pipe2(ends, O_CLOEXEC))
        return false;
    *ours = high_fd(ends[!we_read]);
    *theirs = high_fd(ends[we_read]);
    fcntl(*ours, F_SETFL, fcntl(*ours, F_GETFL) | O_NONBLOCK);
    return true;
}

static bool make_socket(int *theirs) {
    int ends[2], yes = 1;
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends))
        return false;
    run.socket = high_fd(ends[0]);
    *theirs = high_fd(ends[1]);
    setsockopt(run.socket, SOL_SOCKET, SO_PASSCRED, &yes, sizeof yes);  // tells an empty message from the end
    return true;
}

// A descriptor of its own, so that the program cannot write: where /proc is hidden, the seal alone has to do.
static int open_memory(void) {
    char path[32];
    fcntl(input_file(), F_ADD_SEALS, F_SEAL_SEAL | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE);
    snprintf(path, sizeof path, "/proc/self/fd/%d", input_file());
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) {
        lseek(input_file(), 0, SEEK_SET);
        fd = dup(input_file());
    }
    return fd;
}

static bool make_input(int *theirs) {
    int fd;
    if (run.input_kind == INPUT_FIFO)
        return (*theirs = fcntl(run.held[0], F_DUPFD_CLOEXEC, 10)) >= 0;
    if (run.input_kind == INPUT_PIPE)
        return make_pipe(&run.stdin_pipe, theirs, false);
    if (run.input_kind == INPUT_MEMORY && input_file() >= 0)
        fd = open_memory();
    else
        fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
    *theirs = fd < 0 ? -1 : high_fd(fd);
    return fd >= 0;
}

static char **launch_arguments(void) {
    static char umask_text[16], count_text[16];
    snprintf(umask_text, sizeof umask_text, "%u", run.umask);
    snprintf(count_text, sizeof count_text, "%u", run.limit_count);
    char **arguments = run.argv - run.limit_count - LAUNCH_FIXED;
    arguments[0] = (char *)runner.path;
    arguments[1] = "--launch";
    arguments[2] = run.cwd;
    arguments[3] = umask_text;
    arguments[4] = run.channel ? "1" : "0";
    arguments[5] = count_text;
    for (uint32_t i = 0; i < run.limit_count; i++)
        arguments[LAUNCH_FIXED + i] = run.limits[i];
    return arguments;
}

struct ends {                    // what the program gets
    int in, out, err, channel, report;
};

// In memory that is shared with the runner, which waits: nothing but system calls.
static void exec_launch(const struct ends *ends, char **arguments) {
    dup2(ends->in, 0);
    dup2(ends->out, 1);
    dup2(ends->err, 2);
    if (ends->channel >= 0)
        dup2(ends->channel, 3);
    dup2(ends->report, LAUNCH_FD);
    execve(runner.path, arguments, run.env);
    struct launch_report told = {.about = ABOUT_PROGRAM, .why = errno == E2BIG ? WHY_TOO_LONG : WHY_NO_PROCESS, .error = (uint32_t)errno};
    ssize_t wrote = write(LAUNCH_FD, &told, sizeof told);
    _exit(wrote == sizeof told ? 127 : 126);
}

static bool make_ends(struct ends *ends) {
    if (!make_input(&ends->in) || !make_pipe(&run.out[1].fd, &ends->err, true) || !make_pipe(&run.launched, &ends->report, true))
        return false;
    if (run.input_kind == INPUT_FIFO)
        ends->out = fcntl(run.held[1], F_DUPFD_CLOEXEC, 10);
    else if (!make_pipe(&run.out[0].fd, &ends->out, true))
        return false;
    return !run.channel || make_socket(&ends->channel);
}

static void launch_run(void) {
    struct ends ends = {-1, -1, -1, -1, -1};
    char **arguments = launch_arguments();
    take_reserve();
    cgroup_read(&run.before);
    run.own_cpu_us = own_cpu_us();
    bool made = make_ends(&ends);
    int error = errno;
    if (made) {
        run.pid = vfork();
        if (!run.pid)
            exec_launch(&ends, arguments);
        error = errno;
    }
    shut(&ends.in);
    shut(&ends.out);
    shut(&ends.err);
    shut(&ends.channel);
    shut(&ends.report);
    if (!made || run.pid < 0)
        return refuse_text(made ? WHY_NO_PROCESS : WHY_OTHER, error, made ? "" : "its pipes");
    run.phase = LAUNCHING;
}

static void begin_run(void) {
    if (run.input_kind != INPUT_FIFO)
        return launch_run();
    if (!open_fifos())
        return refuse_text(WHY_OTHER, errno, run.stdin_fifo);
    run.phase = MEETING;
}

bool step_due(void) {
    if (files_busy() || !up_room(UP_MAX))
        return false;
    const struct refusal *refusal = files_refusal();
    if (refusal) {
        refuse(refusal->why, (int)refusal->error, refusal->what, strlen(refusal->what));
        files_forget_refusal();
    } else if (run.killed) {
        refuse_text(WHY_KILLED, 0, "");
    } else if (input_error()) {
        refuse_text(WHY_OTHER, input_error(), "its input");
    } else if (!run.argv[0]) {
        refuse_text(WHY_NO_PROGRAM, ENOENT, "");
    } else if (!started_fits()) {
        refuse_text(WHY_OTHER, E2BIG, "volumes");
    } else if (check_volumes()) {
        begin_run();
    }
    return true;
}

bool step_meeting(void) {
    if (!up_room(UP_MAX))  // the other runner's greeting is read once
        return false;
    enum met met = run.killed ? LEFT_ALONE : meet();
    if (met == NOT_YET)
        return false;
    if (met == LEFT_ALONE)
        refuse_text(run.killed ? WHY_KILLED : WHY_OTHER, run.killed ? 0 : EPIPE, run.killed ? "" : run.stdin_fifo);
    else
        launch_run();
    return true;
}

static const char *named(enum launch_about about) {
    switch (about) {
    case ABOUT_CWD: return run.cwd;
    case ABOUT_RLIMIT: return "rlimit";
    case ABOUT_OOM: return "oom_score_adj";
    default: return run.argv[0];
    }
}

// The second stage closes its pipe by becoming the program.
bool step_launching(void) {
    if (run.killed) {
        if (!up_room(UP_MAX))
            return false;
        refuse_text(WHY_KILLED, 0, "");
        return true;
    }
    struct launch_report told;
    ssize_t got = read(run.launched, &told, sizeof told);
    if (got == sizeof told) {
        run.report = told;
        return true;
    }
    if (got || !up_room(UP_MAX))
        return false;
    if (run.report.about == ABOUT_BEGIN) {
        shut(&run.launched);
        report_started();
        begin_clocks();
        run.phase = GOING;
    } else if (run.report.about) {
        refuse_text((enum why)run.report.why, (int)run.report.error, named(run.report.about));
    } else {
        refuse_text(WHY_NO_PROCESS, ENOMEM, "");  // it was killed before it could tell
    }
    return true;
}
