// One run after the other: its phases, its clocks and its end.
#define _GNU_SOURCE
#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include "files.h"
#include "run.h"

#define RESERVE_SIZE (1u << 20)
#define PLENTY (4u << 20)            // several times what the end of a run takes
#define SAMPLE_NS (100 * NS_PER_MS)
#define POPULATE_WRITE 23            // MADV_POPULATE_WRITE, since Linux 5.14
#define HOLD_NS (2 * NS_PER_MS)
#define DROP_NS (NS_PER_MS / 2)
#define MOST_REAPED 1000             // before the others have their turn: a program can go on making orphans

struct run run = {.out = {{.fd = -1}, {.fd = -1}}, .stdin_pipe = -1, .socket = -1, .launched = -1, .held = {-1, -1}};
static uint8_t *reserve;
static bool reserve_is_held;

bool run_is_on(void) { return run.phase != OFF; }

// A run that is over at once is told in one packet, its end with it: each packet wakes four processes on its way.
bool run_holds_back(uint64_t now) {
    bool is_new = run.phase == DUE || run.phase == LAUNCHING || (run.phase >= GOING && now < run.begun_ns + HOLD_NS);
    return is_new && run.input_kind == INPUT_MEMORY && !run.channel;
}
uint32_t run_last(void) { return run.number; }
uint64_t run_taken_input(void) { return run.input_taken; }
uint64_t run_taken_messages(void) { return run.messages_taken; }

void shut(int *fd) {
    if (*fd >= 0)
        close(*fd);
    *fd = -1;
}

uint64_t own_cpu_us(void) {
    struct rusage used;
    getrusage(RUSAGE_SELF, &used);
    return (uint64_t)(used.ru_utime.tv_sec + used.ru_stime.tv_sec) * 1000000u + (uint64_t)(used.ru_utime.tv_usec + used.ru_stime.tv_usec);
}

// The reserve: memory that the runner has while a program runs, and gives back for what it has to do afterwards. To take it again is
// a fifth of what a short run costs beside its program, so it is kept where memory has never been short.

void take_reserve(void) {
    if (reserve_is_held)
        return;
    reserve_is_held = true;
    if (!reserve) {
        reserve = mmap(NULL, RESERVE_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        need(reserve != MAP_FAILED);
    }
    if (!madvise(reserve, RESERVE_SIZE, POPULATE_WRITE))
        return;
    for (size_t at = 0; at < RESERVE_SIZE; at += 4096)  // an older kernel
        ((volatile uint8_t *)reserve)[at] = 1;
}

static void release_reserve(void) {
    if (cgroup_had_room(&run.after, PLENTY))
        return;
    madvise(reserve, RESERVE_SIZE, MADV_DONTNEED);
    reserve_is_held = false;
}

void run_init(void) { take_reserve(); }

// The end of everything

static bool close_run(void) {
    shut(&run.out[0].fd);
    shut(&run.out[1].fd);
    shut(&run.stdin_pipe);
    shut_socket();
    shut(&run.launched);
    let_fifos_go();
    forget_input();
    forget_run();
    run.phase = OFF;
    if (runner.state != STATE_LEAVING)
        runner.state = STATE_IDLE;
    return true;
}

void run_abandon(void) {
    kill_all();
    close_run();
}

void refuse(enum why why, int error, const char *what, size_t length) {
    kill_all();
    up_begin(UP_REFUSED, run.number);
    up_u8((uint8_t)why);
    up_u32((uint32_t)error);
    up_text(what, length < PATH_SIZE ? length : PATH_SIZE);
    up_end();
    close_run();
}

void refuse_text(enum why why, int error, const char *what) { refuse(why, error, what, strlen(what)); }

void run_kill(uint32_t number) {
    if (run_is_on() && number == run.number)
        run_stop(BY_KILL);
}

// Who stops it first, has stopped it.
void run_stop(enum stopped_by by) {
    if (run.phase == DUE || run.phase == MEETING || run.phase == LAUNCHING)
        run.killed = true;
    if (run.phase != GOING || run.reaped)
        return;
    run.by = by;
    run.phase = STOPPED;
}

// While it runs

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

void begin_clocks(void) {
    run.begun_ns = run.report.begun_ns;
    run.cpu_due_ns = run.begun_ns;
    run.sample_due_ns = run.begun_ns + SAMPLE_NS;
}

// Never less than before: a kernel may charge our own time later than that of the run.
static uint64_t used_cpu_us(uint64_t cpu_us) {
    if (cpu_us == NO_COUNT || run.before.cpu_us == NO_COUNT)
        return NO_COUNT;
    uint64_t own = own_cpu_us() - run.own_cpu_us, all = cpu_us - run.before.cpu_us;
    if (all > own && all - own > run.used_cpu_us)
        run.used_cpu_us = all - own;
    return run.used_cpu_us;
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
        look_at_fifos();
        run.sample_due_ns = now + SAMPLE_NS;
    }
}

// What is dropped is read in large pieces: a program that goes on printing costs the runner a small part of a processor.
static bool read_outputs(uint64_t now) {
    bool some = false;
    if (now >= run.drop_due_ns)
        run.drop_due_ns = 0;
    for (int which = 0; which < 2 && run.phase == GOING && !run.drop_due_ns; which++)
        some |= pause_or_go_on(now) && read_output(which, false);
    if (some && output_is_dropped())
        run.drop_due_ns = now + DROP_NS;
    return some;
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
    some |= read_outputs(now);
    some |= pause_or_go_on(now) && read_socket();
    if (run.phase == GOING)
        look_at_clocks(now);
    return some || run.phase != GOING;
}

// The end

uint64_t run_cpu_us(void) { return run.phase == GOING ? used_cpu_us(cgroup_cpu_us()) : NO_COUNT; }

bool run_reap(void) {
    for (int i = 0; i < MOST_REAPED; i++) {
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
    return false;
}

static bool step_stopped(void) {
    sample_memory();
    uint64_t ended = run.reaped ? run.ended_ns : now_ns();
    run.input_over = input_is_over();
    run.left = !kill_all();
    let_fifos_go();
    run.ended_ns = walked_ns(ended);  // from here on: how long it ran
    cgroup_read(&run.after);
    release_reserve();
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
        if (run.by == BY_NOBODY && !run.drops && run.out[which].read > run.out[which].offset)
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

bool run_step(void) {
    switch (run.phase) {
    case DUE: return step_due();
    case MEETING: return step_meeting();
    case LAUNCHING: return step_launching();
    case GOING: return step_going();
    case STOPPED: return step_stopped();
    case DRAINING: return step_draining();
    case BRINGING: return step_bringing();
    case REPORTING: return step_reporting() && close_run();
    default: return false;
    }
}

// What the loop waits for

static void earlier(uint64_t *due, uint64_t ns) { *due = ns < *due ? ns : *due; }

uint64_t run_due_ns(uint64_t now) {
    uint64_t due = UINT64_MAX;
    if (run.phase >= GOING && run_holds_back(now))
        earlier(&due, run.begun_ns + HOLD_NS);
    if (run.phase != GOING)
        return due;
    if (run.wall_ns && !run.paused_at_ns)
        earlier(&due, run.begun_ns + run.paused_ns + run.wall_ns);
    if (run.cpu_us)
        earlier(&due, run.cpu_due_ns);
    if (run.untold_bytes && up_room(UP_MAX))
        earlier(&due, run.untold_ns + TAKEN_NS);
    if (run.drop_due_ns)
        earlier(&due, run.drop_due_ns);
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
    if (run.phase == MEETING && up_room(UP_MAX))
        at = poll_for(at, run.held[0], POLLIN);
    if (run.phase == LAUNCHING)
        at = poll_for(at, run.launched, POLLIN);
    if (run.phase != GOING)
        return (int)(at - polls);
    short in = up_room(UP_MAX) ? POLLIN : 0, output = run.drop_due_ns ? 0 : in;
    at = poll_for(at, run.out[0].fd, output);
    at = poll_for(at, run.out[1].fd, output);
    at = poll_for(at, run.stdin_pipe, input_waits() ? POLLOUT : 0);
    at = poll_for(at, run.socket, (short)(in | (messages_wait() ? POLLOUT : 0)));
    return (int)(at - polls);
}
