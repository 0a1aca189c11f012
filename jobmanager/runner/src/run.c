// One run after the other: started, fed, read, limited, ended and reported.
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>
#include <unistd.h>

#include "files.h"
#include "runner.h"

#define RESERVE_SIZE (1u << 20)
#define QUEUE_SIZE 65536u        // the other end sends no more than this beyond what was taken
#define MESSAGE_COST 4u          // of a message in the queue, beside its bytes
#define TAKEN_STEP 16384u        // so many bytes are reported at once
#define TAKEN_NS (100 * NS_PER_MS)   // a smaller number is reported after this time
#define SAMPLE_NS (100 * NS_PER_MS)
#define MOST_LIMITS 64
#define OUTPUT_HEAD 13u          // of an OUTPUT: stream, offset, length of the data
#define MOST_FROM_PROGRAM (UP_PAYLOAD - 12u)

enum phase { OFF, DUE, LAUNCHING, GOING, STOPPED, DRAINING, BRINGING, REPORTING };
enum input_kind { INPUT_NOTHING, INPUT_MEMORY, INPUT_PIPE, INPUT_PATH };

struct pipe_out {
    int fd;                      // -1: closed
    uint64_t offset;             // bytes that were reported
    uint64_t read;               // bytes that it wrote
};

struct queue {                   // bytes that a pipe or socket does not take yet
    uint8_t bytes[QUEUE_SIZE * 2];
    size_t at, count;
};

static struct {
    enum phase phase;
    uint32_t number;             // the last one taken
    bool killed;                 // by KILL before it began
    enum stopped_by by;
    pid_t pid;
    bool reaped;
    int status;
    uint64_t peak_child;         // bytes, of the first process

    char cwd[PATH_SIZE], stdin_path[PATH_SIZE], stdout_path[PATH_SIZE];
    uint32_t umask;
    enum input_kind input_kind;
    bool channel;
    uint64_t wall_ns, cpu_us, output_bytes;
    uint32_t cpus_milli, limit_count;
    char limits[MOST_LIMITS][48];
    struct in places, volumes, bring;   // their lists, in `payload`
    uint32_t place_count, volume_count;
    char **argv, **env;

    int launched;                // the pipe of its second stage
    struct launch_report report;
    uint64_t vforked_ns, begun_ns, ended_ns, paused_ns, paused_at_ns, cpu_due_ns, sample_due_ns;
    struct counters before, after;
    uint64_t own_cpu_us, sampled_bytes;
    bool left;

    struct pipe_out out[2];
    uint64_t reported;           // bytes of both
    int stdin_pipe, socket;
    bool input_last;
    uint64_t input_received, input_taken, messages_received, messages_taken, messages_up;
    uint64_t told_input, told_messages, untold_bytes, untold_ns;
} run = {.out = {{.fd = -1}, {.fd = -1}}, .stdin_pipe = -1, .socket = -1, .launched = -1};

static struct {                  // what a run will read, while it is sent
    uint32_t run;
    int fd, error;
    bool last;
} memory = {.fd = -1};

static uint8_t payload[DOWN_SIZE];
static char *vector[DOWN_SIZE / 4 + 1024];   // arguments, then the environment; it has pages only where it is used
static struct queue input_queue, message_queue;
static uint8_t *reserve;

bool run_is_on(void) { return run.phase != OFF; }
uint32_t run_last(void) { return run.number; }
uint64_t run_taken_input(void) { return run.input_taken; }
uint64_t run_taken_messages(void) { return run.messages_taken; }

static void shut(int *fd) {
    if (*fd >= 0)
        close(*fd);
    *fd = -1;
}

static uint64_t own_cpu_us(void) {
    struct rusage used;
    getrusage(RUSAGE_SELF, &used);
    return (uint64_t)(used.ru_utime.tv_sec + used.ru_stime.tv_sec) * 1000000u + (uint64_t)(used.ru_utime.tv_usec + used.ru_stime.tv_usec);
}

// The reserve

static void take_reserve(void) {
    if (!reserve) {
        reserve = mmap(NULL, RESERVE_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        need(reserve != MAP_FAILED);
    }
    for (size_t at = 0; at < RESERVE_SIZE; at += 4096)
        ((volatile uint8_t *)reserve)[at] = 1;
}

static void release_reserve(void) { madvise(reserve, RESERVE_SIZE, MADV_DONTNEED); }

void run_init(void) { take_reserve(); }

// The end of everything

static void forget_memory(void) {
    shut(&memory.fd);
    memory.run = 0;
    memory.error = 0;
    memory.last = false;
}

static void close_run(void) {
    shut(&run.out[0].fd);
    shut(&run.out[1].fd);
    shut(&run.stdin_pipe);
    shut(&run.socket);
    shut(&run.launched);
    if (memory.run <= run.number)
        forget_memory();
    input_queue.count = message_queue.count = 0;
    run.phase = OFF;
    if (runner.state != STATE_LEAVING)
        runner.state = STATE_IDLE;
    give_back(vector, sizeof vector);
    give_back(payload, sizeof payload);
}

void run_abandon(void) {
    kill_all();
    close_run();
}

static void refuse(enum why why, int error, const char *what, size_t length) {
    kill_all();
    up_begin(UP_REFUSED, run.number);
    up_u8((uint8_t)why);
    up_u32((uint32_t)error);
    up_text(what, length < PATH_SIZE ? length : PATH_SIZE);
    up_end();
    close_run();
}

static void refuse_text(enum why why, int error, const char *what) { refuse(why, error, what, strlen(what)); }

// Taking a run

// The texts of a list as strings with a NUL. Each text has its length before it, so there is a place for the NUL of the one before;
// the strings are ended later, when all of the payload was read.
static char **read_strings(struct in *in, char **at, uint32_t *count) {
    *count = in_count(in, 4);
    for (uint32_t i = 0; i < *count; i++) {
        uint32_t length;
        const uint8_t *text = in_text(in, &length);
        in->bad |= memchr(text, 0, length) != NULL;
        at[i] = (char *)text;
    }
    return at + *count;
}

static void end_strings(char **strings, size_t count) {
    while (count--)
        strings[count][get_u32((uint8_t *)strings[count] - 4)] = 0;
}

static void read_limits(struct in *in) {
    run.limit_count = in_count(in, 17);
    in->bad |= run.limit_count > MOST_LIMITS;
    for (uint32_t i = 0; i < run.limit_count && !in->bad; i++) {
        unsigned resource = in_u8(in);
        unsigned long long soft = in_u64(in), hard = in_u64(in);
        snprintf(run.limits[i], sizeof run.limits[i], "%u:%llu:%llu", resource, soft, hard);
    }
}

static void skip_name(struct in *in) {
    static char name[PATH_SIZE];
    in_name(in, name, sizeof name);
}

static void read_lists(struct in *in) {
    run.place_count = in_count(in, 4);
    run.places = *in;
    for (uint32_t i = 0; i < run.place_count && !in->bad; i++)
        skip_name(in);
    run.volume_count = in_count(in, 8);
    run.volumes = *in;
    for (uint32_t i = 0; i < run.volume_count && !in->bad; i++) {
        skip_name(in);
        skip_name(in);
    }
    run.bring = *in;
    uint32_t count = in_count(in, 8);
    for (uint32_t i = 0; i < count && !in->bad; i++) {
        skip_name(in);
        in_u32(in);
    }
}

static bool is_set(const char *entry, char **env, size_t count) {
    size_t name = strcspn(entry, "=");
    for (size_t i = 0; i < count; i++)
        if (!strncmp(entry, env[i], name) && env[i][name] == '=')
            return true;
    return false;
}

// The container's own environment under the run's.
static void complete_env(char **end) {
    extern char **environ;
    size_t count = (size_t)(end - run.env), added = 0;
    for (char **entry = environ; *entry && added < 900; entry++)
        if (!is_set(*entry, run.env, count))
            run.env[count + added++] = *entry;
    if (run.channel)
        run.env[count + added++] = "JOBMANAGER_CHANNEL=3";
    run.env[count + added] = NULL;
}

static bool read_run(struct in *in) {
    uint32_t arguments, variables;
    run.argv = vector + LAUNCH_FIXED + MOST_LIMITS;
    char **end = read_strings(in, run.argv, &arguments);
    run.env = end + 1;
    end = read_strings(in, run.env, &variables);
    in_name(in, run.cwd, sizeof run.cwd);
    run.umask = in_u32(in);
    run.input_kind = in_choice(in, INPUT_PATH);
    in_name(in, run.stdin_path, sizeof run.stdin_path);
    in_name(in, run.stdout_path, sizeof run.stdout_path);
    run.channel = in_flag(in);
    uint64_t wall_ms = in_u64(in);
    run.wall_ns = wall_ms > NO_COUNT / 2 / NS_PER_MS ? 0 : wall_ms * NS_PER_MS;
    run.cpu_us = in_u64(in);
    run.cpus_milli = in_u32(in);
    run.output_bytes = in_u64(in);
    read_limits(in);
    read_lists(in);
    if (!in_done(in))
        return false;
    end_strings(run.env, variables);
    end_strings(run.argv, arguments);
    run.env[-1] = NULL;
    complete_env(end);
    return true;
}

static void reset_run(void) {
    run.killed = run.reaped = run.left = run.input_last = false;
    run.by = BY_NOBODY;
    run.pid = 0;
    run.report = (struct launch_report){0};
    run.begun_ns = run.paused_ns = run.paused_at_ns = 0;
    run.peak_child = run.sampled_bytes = run.reported = 0;
    run.input_received = run.input_taken = run.messages_received = run.messages_taken = run.messages_up = 0;
    run.told_input = run.told_messages = run.untold_bytes = run.untold_ns = 0;
    for (int i = 0; i < 2; i++)
        run.out[i] = (struct pipe_out){.fd = -1};
    input_queue = (struct queue){.at = 0};
    message_queue.at = message_queue.count = 0;
}

// What was sent for a pipe before its run.
static bool feed_what_came_before(void) {
    struct stat found;
    if (run.input_kind != INPUT_PIPE || memory.run != run.number || memory.fd < 0)
        return true;
    if (fstat(memory.fd, &found) || found.st_size > (off_t)QUEUE_SIZE)
        return false;
    ssize_t got = pread(memory.fd, input_queue.bytes, QUEUE_SIZE, 0);
    input_queue.count = run.input_received = got > 0 ? (uint64_t)got : 0;
    run.input_last = memory.last;
    return true;
}

void run_start(struct in *in) {
    size_t length = (size_t)(in->end - in->at);
    uint32_t number = in_u32(in);
    if (in->bad)
        return fault("RUN makes no sense");
    if (number <= run.number)
        return;
    if (run_is_on())
        return fault("RUN while a run is going on");
    memcpy(payload, in->at, length - 4);
    reset_run();
    struct in copy = {payload, payload + length - 4, false};
    if (!read_run(&copy))
        return fault("RUN makes no sense");
    run.number = number;
    if (!feed_what_came_before())
        return fault("more INPUT than the run may have before it");
    run.phase = DUE;
    runner.state = STATE_RUNNING;
}

void run_kill(uint32_t number) {
    if (run_is_on() && number == run.number)
        run_stop(BY_KILL);
}

// Who stops it first, has stopped it.
void run_stop(enum stopped_by by) {
    if (run.phase == DUE || run.phase == LAUNCHING)
        run.killed = true;
    if (run.phase != GOING || run.reaped)
        return;
    run.by = by;
    run.phase = STOPPED;
}

// Input and messages down

static void fill_memory(uint32_t number, uint64_t offset, bool last, const uint8_t *data, size_t length) {
    if (memory.run != number) {
        forget_memory();
        memory.run = number;
        int fd = memfd_create("input", MFD_CLOEXEC | MFD_ALLOW_SEALING);
        memory.error = fd < 0 ? errno : 0;
        memory.fd = fd < 0 ? -1 : high_fd(fd);
    }
    memory.last |= last;
    if (memory.fd < 0 || offset > INT64_MAX - length)
        return;
    while (length) {
        ssize_t wrote = pwrite(memory.fd, data, length, (off_t)offset);
        if (wrote <= 0) {
            memory.error = wrote < 0 ? errno : ENOSPC;
            return;
        }
        data += wrote;
        offset += (uint64_t)wrote;
        length -= (size_t)wrote;
    }
}

static void queue_append(struct queue *queue, const uint8_t *bytes, size_t count) {
    if (queue->at + queue->count + count > sizeof queue->bytes) {
        memmove(queue->bytes, queue->bytes + queue->at, queue->count);
        queue->at = 0;
    }
    memcpy(queue->bytes + queue->at + queue->count, bytes, count);
    queue->count += count;
}

static void queue_drop(struct queue *queue, size_t count) {
    queue->at += count;
    queue->count -= count;
    if (!queue->count)
        queue->at = 0;
}

static void feed_pipe(uint64_t offset, bool last, const uint8_t *data, size_t length) {
    if (offset > run.input_received)
        return fault("INPUT with a gap");
    uint64_t known = run.input_received - offset;
    if (known > length || run.input_last)
        return;
    if (offset + length - run.input_taken > QUEUE_SIZE)
        return fault("more INPUT than the run may have before it");
    run.input_received = offset + length;
    run.input_last = last;
    if (run.stdin_pipe >= 0 || run.phase == DUE)
        queue_append(&input_queue, data + known, length - known);
}

void run_input(struct in *in) {
    uint32_t number = in_u32(in), length;
    uint64_t offset = in_u64(in);
    bool last = in_flag(in);
    const uint8_t *data = in_text(in, &length);
    if (!in_done(in))
        return fault("INPUT makes no sense");
    if (number > run.number)
        return fill_memory(number, offset, last, data, length);
    if (number == run.number && run_is_on() && run.input_kind == INPUT_PIPE && run.phase <= GOING)
        feed_pipe(offset, last, data, length);
}

void run_message(struct in *in) {
    uint32_t number = in_u32(in), length;
    uint64_t message = in_u64(in);
    const uint8_t *data = in_text(in, &length);
    if (!in_done(in))
        return fault("MESSAGE makes no sense");
    if (number != run.number || run.phase == OFF || run.phase > GOING || message < run.messages_received)
        return;
    if (!run.channel || message > run.messages_received)
        return fault(run.channel ? "MESSAGE with a gap" : "MESSAGE to a run without a channel");
    if (length + MESSAGE_COST > sizeof message_queue.bytes - message_queue.count || length > QUEUE_SIZE)
        return fault("more messages than the run may have before it");
    run.messages_received++;
    uint8_t head[MESSAGE_COST];
    put_u32(head, length);
    queue_append(&message_queue, head, sizeof head);
    queue_append(&message_queue, data, length);
}

// Starting

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
    fcntl(memory.fd, F_ADD_SEALS, F_SEAL_SEAL | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE);
    snprintf(path, sizeof path, "/proc/self/fd/%d", memory.fd);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) {
        lseek(memory.fd, 0, SEEK_SET);
        fd = dup(memory.fd);
    }
    return fd;
}

static bool make_input(int *theirs) {
    int fd;
    if (run.input_kind == INPUT_PIPE)
        return make_pipe(&run.stdin_pipe, theirs, false);
    if (run.input_kind == INPUT_MEMORY && memory.run == run.number)
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
    arguments[4] = run.input_kind == INPUT_PATH ? run.stdin_path : "";
    arguments[5] = run.stdout_path;
    arguments[6] = run.channel ? "1" : "0";
    arguments[7] = count_text;
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
    if (*run.stdout_path)
        ends->out = high_fd(fcntl(ends->err, F_DUPFD_CLOEXEC, 10));  // until the second stage opens the path
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
    run.vforked_ns = now_ns();
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

static bool step_due(void) {
    if (files_busy() || !up_room(UP_MAX))
        return false;
    const struct refusal *refusal = files_refusal();
    if (refusal) {
        refuse(refusal->why, (int)refusal->error, refusal->what, strlen(refusal->what));
        files_forget_refusal();
    } else if (run.killed) {
        refuse_text(WHY_KILLED, 0, "");
    } else if (memory.run == run.number && memory.error) {
        refuse_text(WHY_OTHER, memory.error, "its input");
    } else if (!run.argv[0]) {
        refuse_text(WHY_NO_PROGRAM, ENOENT, "");
    } else if (!started_fits()) {
        refuse_text(WHY_OTHER, E2BIG, "volumes");
    } else if (check_volumes()) {
        launch_run();
    }
    return true;
}

static const char *named(enum launch_about about) {
    switch (about) {
    case ABOUT_CWD: return run.cwd;
    case ABOUT_STDIN: return run.stdin_path;
    case ABOUT_STDOUT: return run.stdout_path;
    case ABOUT_RLIMIT: return "rlimit";
    case ABOUT_OOM: return "oom_score_adj";
    default: return run.argv[0];
    }
}

static void begin_clocks(void) {
    run.begun_ns = run.report.begun_ns;
    run.cpu_due_ns = run.begun_ns;
    run.sample_due_ns = run.begun_ns + SAMPLE_NS;
}

// The second stage closes its pipe by becoming the program.
static bool step_launching(void) {
    if (run.killed || (run.wall_ns && now_ns() - run.vforked_ns > run.wall_ns && !run.report.about)) {
        if (!up_room(UP_MAX))
            return false;
        refuse_text(run.killed ? WHY_KILLED : WHY_OTHER, run.killed ? 0 : ETIMEDOUT, run.killed ? "" : "it waits for its fifo");
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

// While it runs

static bool read_output(int which, bool at_end) {
    struct pipe_out *out = &run.out[which];
    if (out->fd < 0)
        return false;
    up_begin(UP_OUTPUT, run.number);
    up_u8((uint8_t)(which + 1));
    up_u64(out->offset);
    ssize_t got = read(out->fd, up_text_begin(), UP_PAYLOAD - OUTPUT_HEAD);
    if (got == 0 || (got < 0 && errno != EAGAIN && errno != EINTR) || (got < 0 && at_end))
        shut(&out->fd);
    if (got <= 0)
        return false;
    uint64_t left = run.output_bytes ? run.output_bytes - run.reported : UINT64_MAX;
    size_t told = (uint64_t)got < left ? (size_t)got : (size_t)left;
    out->read += (uint64_t)got;
    if (told) {
        up_text_end(told);
        up_end();
        out->offset += told;
        run.reported += told;
    }
    if (told < (size_t)got)
        run_stop(BY_OUTPUT);
    return true;
}

static bool read_socket(void) {
    if (run.socket < 0)
        return false;
    union {
        struct cmsghdr head;
        char space[CMSG_SPACE(sizeof(struct ucred))];  // no room for descriptors that a program may send along
    } control;
    up_begin(UP_MESSAGE, run.number);
    up_u64(run.messages_up);
    struct iovec data = {up_text_begin(), MOST_FROM_PROGRAM};
    struct msghdr head = {.msg_iov = &data, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof control};
    ssize_t got = recvmsg(run.socket, &head, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
    if ((got == 0 && !head.msg_controllen) || (got < 0 && errno != EAGAIN && errno != EINTR && errno != ECONNRESET)) {
        shut(&run.socket);
        return false;
    }
    if (got < 0)
        return errno == ECONNRESET;  // it went away with messages that it had not read; what it wrote is still there
    up_text_end((size_t)got);
    up_end();
    run.messages_up++;
    return true;
}

static void taken(uint64_t bytes) {
    if (!run.untold_bytes && bytes)
        run.untold_ns = now_ns();
    run.untold_bytes += bytes;
}

static void write_input(void) {
    while (input_queue.count && run.stdin_pipe >= 0) {
        ssize_t wrote = write(run.stdin_pipe, input_queue.bytes + input_queue.at, input_queue.count);
        if (wrote < 0 && (errno == EAGAIN || errno == EINTR))
            return;
        if (wrote < 0) {
            shut(&run.stdin_pipe);
            return;
        }
        run.input_taken += (uint64_t)wrote;
        taken((uint64_t)wrote);
        queue_drop(&input_queue, (size_t)wrote);
    }
    if (run.input_last)
        shut(&run.stdin_pipe);
}

static void write_messages(void) {
    while (message_queue.count && run.socket >= 0) {
        const uint8_t *head = message_queue.bytes + message_queue.at;
        uint32_t length = get_u32(head);
        ssize_t wrote = send(run.socket, head + MESSAGE_COST, length, MSG_DONTWAIT | MSG_NOSIGNAL);
        if (wrote < 0 && (errno == EAGAIN || errno == EINTR))
            return;
        if (wrote < 0) {
            message_queue.count = 0;
            return;
        }
        run.messages_taken++;
        taken(length + MESSAGE_COST);
        queue_drop(&message_queue, length + MESSAGE_COST);
    }
}

static bool report_taken(bool now) {
    if (!run.untold_bytes || !up_room(UP_MAX) || !(now || run.untold_bytes >= TAKEN_STEP || now_ns() - run.untold_ns >= TAKEN_NS))
        return false;
    run.untold_bytes = 0;
    up_begin(UP_TAKEN, run.number);
    up_u64(run.input_taken);
    up_u64(run.messages_taken);
    up_end();
    return true;
}

// The reader is slow and not the program: then the wall clock stands.
static bool pause_or_go_on(uint64_t now) {
    bool room = up_room(UP_MAX);
    if (!room && !run.paused_at_ns)
        run.paused_at_ns = now;
    if (room && run.paused_at_ns) {
        run.paused_ns += now - run.paused_at_ns;
        run.paused_at_ns = 0;
    }
    return room;
}

static uint64_t walked_ns(uint64_t now) {
    uint64_t paused = run.paused_ns + (run.paused_at_ns ? now - run.paused_at_ns : 0);
    uint64_t past = now > run.begun_ns ? now - run.begun_ns : 0;
    return past > paused ? past - paused : 0;
}

static uint64_t used_cpu_us(uint64_t cpu_us) {
    if (cpu_us == NO_COUNT || run.before.cpu_us == NO_COUNT)
        return NO_COUNT;
    uint64_t own = own_cpu_us() - run.own_cpu_us, all = cpu_us - run.before.cpu_us;
    return all > own ? all - own : 0;
}

// The container cannot use more than all its CPUs from now on, so the limit is not reached before.
static void look_at_cpu(uint64_t now) {
    if (!run.cpu_us || now < run.cpu_due_ns)
        return;
    uint64_t used = used_cpu_us(cgroup_cpu_us());
    if (used != NO_COUNT && used >= run.cpu_us)
        return run_stop(BY_CPU);
    long online = sysconf(_SC_NPROCESSORS_ONLN);
    uint64_t cpus_milli = run.cpus_milli ? run.cpus_milli : 1000u * (uint64_t)(online > 0 ? online : 1);
    uint64_t left_us = used == NO_COUNT ? 1000000 : run.cpu_us - used;
    uint64_t wait_ns = left_us > 1000000000 ? NS_PER_S : left_us * 1000 * 1000 / cpus_milli;
    run.cpu_due_ns = now + (wait_ns < NS_PER_MS ? NS_PER_MS : wait_ns < NS_PER_S ? wait_ns : NS_PER_S);
}

static void sample_memory(void) {
    uint64_t bytes = cgroup_memory_bytes();
    if (bytes != NO_COUNT && bytes > run.sampled_bytes)
        run.sampled_bytes = bytes;
}

static void look_at_clocks(uint64_t now) {
    if (run.wall_ns && walked_ns(now) >= run.wall_ns)
        run_stop(BY_WALL);
    if (run.phase == GOING)
        look_at_cpu(now);
    if (now >= run.sample_due_ns) {
        sample_memory();
        run.sample_due_ns = now + SAMPLE_NS;
    }
}

static bool step_going(void) {
    bool some = false;
    uint64_t now = now_ns();
    if (run.reaped) {
        run.phase = STOPPED;
        return true;
    }
    write_input();
    write_messages();
    some |= report_taken(false);
    for (int which = 0; which < 2 && run.phase == GOING; which++)
        some |= pause_or_go_on(now) && read_output(which, false);
    some |= pause_or_go_on(now) && read_socket();
    if (run.phase == GOING)
        look_at_clocks(now);
    return some || run.phase != GOING;
}

// The end

bool run_reap(void) {
    for (;;) {
        int status;
        struct rusage used;
        pid_t pid = wait4(-1, &status, WNOHANG | __WALL, &used);
        if (pid <= 0)
            return pid < 0 && errno == ECHILD;
        if (pid != run.pid || run.reaped)
            continue;
        run.reaped = true;
        run.status = status;
        run.ended_ns = now_ns();
        run.peak_child = (uint64_t)used.ru_maxrss * 1024;
    }
}

static bool step_stopped(void) {
    sample_memory();
    uint64_t ended = run.reaped ? run.ended_ns : now_ns();
    run.left = !kill_all();
    release_reserve();
    run.ended_ns = walked_ns(ended);  // from here on: how long it ran
    cgroup_read(&run.after);
    run.after.cpu_us = used_cpu_us(run.after.cpu_us);
    shut(&run.stdin_pipe);
    runner.state = STATE_ENDING;
    run.phase = DRAINING;
    return true;
}

static bool step_draining(void) {
    if (!up_room(UP_MAX))
        return false;
    if (report_taken(true) || read_output(0, true) || read_output(1, true) || read_socket())
        return true;
    for (int which = 0; which < 2; which++)
        if (run.by == BY_NOBODY && run.out[which].read > run.out[which].offset)
            run.by = BY_OUTPUT;
    files_bring_begin(run.number, run.bring);
    run.phase = BRINGING;
    return true;
}

static bool step_bringing(void) {
    if (files_busy())
        return false;
    run.phase = REPORTING;
    return true;
}

static uint64_t difference(uint64_t after, uint64_t before) { return after == NO_COUNT || before == NO_COUNT ? NO_COUNT : after - before; }

static void report_peak(void) {
    bool rose = run.after.peak_bytes != NO_COUNT && run.after.peak_bytes > run.before.peak_bytes;
    uint64_t seen = run.sampled_bytes > run.peak_child ? run.sampled_bytes : run.peak_child;
    up_u64(rose ? run.after.peak_bytes : seen ? seen : NO_COUNT);
    up_u8(rose);
}

struct fullness {
    bool blocks, inodes;
};

static struct fullness fullness_of(const char *path) {
    struct statvfs space;
    if (statvfs(path, &space))
        return (struct fullness){false, false};
    return (struct fullness){space.f_blocks && !space.f_bavail, space.f_files && !space.f_favail};
}

static void report_full(void) {
    static char path[PATH_SIZE];
    uint32_t count = 0;
    for (int writing = 0; writing < 2; writing++) {
        struct in list = run.places;
        size_t left = up_left() - 16;
        if (writing)
            up_u32(count);
        for (uint32_t i = 0, written = 0; i < run.place_count; i++) {
            in_name(&list, path, sizeof path);
            struct fullness full = fullness_of(path);
            size_t size = strlen(path) + 6;
            if ((!full.blocks && !full.inodes) || size > left || (writing && written == count))
                continue;
            left -= size;
            if (!writing) {
                count++;
                continue;
            }
            written++;
            up_text(path, size - 6);
            up_u8(full.blocks);
            up_u8(full.inodes);
        }
    }
}

static enum stopped_by stopped_by(void) {
    if (run.by != BY_NOBODY)
        return run.by;
    if (run.cpu_us && run.after.cpu_us != NO_COUNT && run.after.cpu_us >= run.cpu_us)
        return BY_CPU;
    return run.wall_ns && run.ended_ns >= run.wall_ns ? BY_WALL : BY_NOBODY;
}

static void report_how(void) {
    bool signalled = run.reaped && WIFSIGNALED(run.status);
    up_u8(!run.reaped ? 2 : signalled);
    up_u32(!run.reaped ? 0 : signalled ? (uint32_t)WTERMSIG(run.status) : (uint32_t)WEXITSTATUS(run.status));
    up_u8((uint8_t)stopped_by());
}

static bool step_reporting(void) {
    if (!up_room(UP_MAX))
        return false;
    up_begin(UP_ENDED, run.number);
    report_how();
    up_u64(run.after.cpu_us);
    up_u64(run.ended_ns / 1000);
    report_peak();
    up_u64(difference(run.after.oom_kills, run.before.oom_kills));
    up_u64(difference(run.after.fork_refusals, run.before.fork_refusals));
    up_u64(run.out[0].read);
    up_u64(run.out[1].read);
    report_full();
    up_u8(run.left);
    up_end();
    close_run();
    return true;
}

bool run_step(void) {
    switch (run.phase) {
    case DUE: return step_due();
    case LAUNCHING: return step_launching();
    case GOING: return step_going();
    case STOPPED: return step_stopped();
    case DRAINING: return step_draining();
    case BRINGING: return step_bringing();
    case REPORTING: return step_reporting();
    default: return false;
    }
}

// What the loop waits for

static void earlier(uint64_t *due, uint64_t ns) { *due = ns < *due ? ns : *due; }

uint64_t run_due_ns(void) {
    uint64_t due = UINT64_MAX;
    if (run.phase == LAUNCHING && run.wall_ns)
        earlier(&due, run.vforked_ns + run.wall_ns + 1);
    if (run.phase != GOING)
        return due;
    if (run.wall_ns && !run.paused_at_ns)
        earlier(&due, run.begun_ns + run.paused_ns + run.wall_ns);
    if (run.cpu_us)
        earlier(&due, run.cpu_due_ns);
    if (run.untold_bytes && up_room(UP_MAX))
        earlier(&due, run.untold_ns + TAKEN_NS);
    earlier(&due, run.sample_due_ns);
    return due;
}

static struct pollfd *poll_for(struct pollfd *at, int fd, short events) {
    if (fd < 0 || !events)
        return at;
    *at = (struct pollfd){fd, events, 0};
    return at + 1;
}

int run_polls(struct pollfd *polls) {
    struct pollfd *at = polls;
    if (run.phase == LAUNCHING)
        at = poll_for(at, run.launched, POLLIN);
    if (run.phase != GOING)
        return (int)(at - polls);
    short in = up_room(UP_MAX) ? POLLIN : 0;
    at = poll_for(at, run.out[0].fd, in);
    at = poll_for(at, run.out[1].fd, in);
    at = poll_for(at, run.stdin_pipe, input_queue.count ? POLLOUT : 0);
    at = poll_for(at, run.socket, (short)(in | (message_queue.count ? POLLOUT : 0)));
    return (int)(at - polls);
}
