// The runner: PID 1 of a container. docs/runner.md is its contract.
#define _GNU_SOURCE
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <time.h>
#include <unistd.h>

#include "files.h"
#include "runner.h"

#ifndef BUILD_ID
#define BUILD_ID "0000000000000000000000000000000000000000000000000000000000000000"
#endif

#define VERSION 2
#define AGAIN_NS (50 * NS_PER_MS)    // a closed end of the channel is tried again
#define GONE_NS (2 * NS_PER_S)       // a reader that takes nothing is not waited for longer, when the runner leaves
#define KILL_NS (10 * NS_PER_S)
#define MOST_SENDS 16                // before the others have their turn

struct runner runner = {.state = STATE_NEW};

uint64_t now_ns(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * NS_PER_S + (uint64_t)now.tv_nsec;
}

void need(bool fine) {
    if (!fine)
        _exit(EXIT_NEED);
}

int high_fd(int fd) {
    if (fd < 0 || fd >= 10)
        return fd;
    int high = fcntl(fd, F_DUPFD_CLOEXEC, 10);
    close(fd);
    return high;
}

// Once: a program that sends signals faster than they are read would hold the runner up for ever.
static void forget_signals(void) {
    struct signalfd_siginfo told[8];
    ssize_t got = read(runner.children, told, sizeof told);
    (void)got;
}

// Orphans become children of PID 1, so without a child there is nobody else.
bool kill_all(void) {
    uint64_t until = now_ns() + KILL_NS;
    do {
        kill(-1, SIGKILL);
        if (run_reap())
            return true;
        struct pollfd child = {runner.children, POLLIN, 0};
        poll(&child, 1, 2);
        forget_signals();
    } while (now_ns() < until);
    return false;
}

// Leaving

static void leave(enum exit_code code, enum stopped_by by) {
    if (runner.leaving)
        return;
    runner.leaving = true;
    runner.leave_code = code;
    runner.sent_ns = now_ns();
    run_stop(by);
}

void fault(const char *text) {
    if (runner.state == STATE_LEAVING)
        return;
    up_begin(UP_FAULT, 0);
    up_text(text, strlen(text));
    up_end();
    runner.state = STATE_LEAVING;
    run_abandon();
    leave(EXIT_FAULT, BY_NOBODY);
    runner.leave_code = EXIT_FAULT;
}

static void leave_when_done(uint64_t now) {
    if (!runner.leaving)
        return;
    if (!run_is_on())
        runner.state = STATE_LEAVING;
    bool sent = runner.state == STATE_LEAVING && !window_unsent();
    bool reader_gone = now > runner.sent_ns + GONE_NS && (window_unsent() || runner.leave_code == EXIT_LEASE);
    if (sent || reader_gone || (runner.leave_code != EXIT_LEASE && runner.silent_ns >= runner.lease_ns))
        _exit(runner.leave_code);  // the kernel ends whoever is left
}

// Frames

static void write_status(void) {
    up_u16(VERSION);
    up_u32(32);
    for (int i = 0; i < 32; i++) {
        char digits[3] = {BUILD_ID[2 * i], BUILD_ID[2 * i + 1], 0};
        up_u8((uint8_t)strtoul(digits, NULL, 16));
    }
    up_u8((uint8_t)runner.state);
    up_u32(run_last());
    up_u64(window_from());
    up_u64(run_taken_input());
    up_u64(run_taken_messages());
    up_u64(down_skipped());
    up_text(runner.put_to, strlen(runner.put_to));
    up_u8(cgroup_version());
    up_u8(prctl(PR_GET_DUMPABLE) != 0);
    up_u64(run_cpu_us());
}

// Ahead: what is for the next run, and comes while one is going on, or before the answer to a CLEAR that it is to find done.

#define AHEAD_HEAD 13u
static struct {
    uint8_t bytes[AHEAD_SIZE];   // of each message: type, session, length, payload
    size_t size;
    uint32_t killed;             // the run that is not to begin
} ahead;

static void obey_hello(uint64_t session, struct in *in) {
    uint16_t version = in_u16(in);
    uint64_t read_from = in_u64(in);
    uint32_t lease_ms = in_u32(in);
    if (!in_done(in) || version != VERSION)
        return fault("HELLO of another version");
    if (runner.state == STATE_NEW)
        runner.state = STATE_IDLE;
    runner.lease_ns = lease_ms * NS_PER_MS;
    ahead.size = 0;  // whoever has begun this session sends again what was not taken
    window_resume(session, read_from);
}

static void obey_ack(struct in *in) {
    uint64_t read_to = in_u64(in);
    if (!in_done(in) || !window_acknowledge(read_to))
        fault("ACK of what was never sent");
}

static void obey_kill(struct in *in) {
    uint32_t number = in_u32(in);
    if (!in_done(in))
        return fault("KILL makes no sense");
    run_kill(number);
    if (number > run_last())
        ahead.killed = number;
}

static void obey_leave(struct in *in) {
    if (!in_done(in))
        return fault("LEAVE makes no sense");
    leave(EXIT_LEAVE, BY_LEAVE);
}

// A new waiter does not know that the dead one has asked for something.
static bool may_ask(uint64_t session) {
    static uint64_t last;
    if (files_busy() && session == last)
        return false;
    last = session;
    files_give_up();
    return true;
}

static void obey_between_runs(uint8_t type, uint64_t session, struct in *in) {
    if (run_is_on())
        return fault("a request while a run is going on");
    if (type != DOWN_PUT && type != DOWN_REMOVE && !may_ask(session))
        return fault("a request before the last one was answered");
    switch (type) {
    case DOWN_PUT: return files_put(in);
    case DOWN_REMOVE: return files_remove(in);
    case DOWN_LIST: return files_list(in);
    case DOWN_FETCH: return files_fetch(in);
    case DOWN_CLEAR: return files_clear(in);
    case DOWN_KEEP: return files_keep(in);
    default: return fault("a message of a type that does not exist");
    }
}

static void obey_work(uint8_t type, uint64_t session, struct in *in) {
    switch (type) {
    case DOWN_INPUT: return run_input(in);
    case DOWN_RUN: return run_start(in);
    case DOWN_MESSAGE: return run_message(in);
    case DOWN_KILL: return obey_kill(in);
    case DOWN_LEAVE: return obey_leave(in);
    default: return obey_between_runs(type, session, in);
    }
}

static bool is_ahead(uint8_t type, const struct in *in) {
    bool has_number = in->end - in->at >= 4;
    switch (type) {
    case DOWN_CLEAR: return run_is_on() || ahead.size;
    case DOWN_PUT: return run_is_on() || ahead.size || files_clearing();
    case DOWN_INPUT:
    case DOWN_RUN: return (run_is_on() || ahead.size) && has_number && get_u32(in->at) > run_last();
    default: return false;
    }
}

static void keep_ahead(uint8_t type, uint64_t session, const struct in *in) {
    size_t length = (size_t)(in->end - in->at);
    if (length + AHEAD_HEAD > sizeof ahead.bytes - ahead.size)
        return fault("more for the next run than may be sent ahead");
    uint8_t *at = ahead.bytes + ahead.size;
    *at = type;
    put_u64(at + 1, session);
    put_u32(at + 9, (uint32_t)length);
    memcpy(at + AHEAD_HEAD, in->at, length);
    ahead.size += AHEAD_HEAD + length;
}

static void obey_work(uint8_t type, uint64_t session, struct in *in);
static bool step_files(void);

// As far as the next run: what was kept behind that waits for its end.
static bool obey_ahead(void) {
    size_t at = 0;
    if (!ahead.size)
        return false;
    while (at < ahead.size && !run_is_on() && !files_busy() && !runner.leaving) {
        const uint8_t *message = ahead.bytes + at;
        uint32_t length = get_u32(message + 9);
        struct in in = {message + AHEAD_HEAD, message + AHEAD_HEAD + length, false};
        at += AHEAD_HEAD + length;
        obey_work(*message, get_u64(message + 1), &in);
        if (run_is_on() && run_last() == ahead.killed)
            run_kill(ahead.killed);
        while (step_files())
            continue;
    }
    memmove(ahead.bytes, ahead.bytes + at, ahead.size - at);
    ahead.size -= at;
    return at;
}

static bool step_files(void) { return files_busy() && up_room(UP_MAX) && files_step(); }

static void obey(uint8_t type, uint64_t session, struct in *in) {
    if (type == DOWN_HELLO)
        return obey_hello(session, in);
    if (type == DOWN_ACK)
        return obey_ack(in);
    if (runner.leaving)
        return;
    if (is_ahead(type, in))
        return keep_ahead(type, session, in);
    obey_work(type, session, in);
    while (step_files())  // an answer that fits is given before the next request is read
        continue;
}

// The loop

static bool send_some(uint64_t now) {
    if (now < runner.retry_out_ns || (run_holds_back(now) && window_can_wait()))
        return false;
    for (int i = 0; i < MOST_SENDS; i++) {
        enum sent sent = window_send(1, write_status);
        if (sent == SENT_CLOSED)
            runner.retry_out_ns = now + AGAIN_NS;
        if (sent == SENT_CLOSED || sent == SENT_BLOCKED)
            return false;
        runner.sent_ns = now;
        if (sent == SENT_NOTHING)
            return false;
    }
    return true;
}

static void receive(uint64_t now) {
    bool ended;
    if (now < runner.retry_in_ns)
        return;
    if (down_read(0, &ended))
        down_parse(obey);
    if (ended)
        runner.retry_in_ns = now + AGAIN_NS;
}

// A slice counts for at most a second: a container that was frozen first hears what has come.
static void count_lease(uint64_t now) {
    uint64_t slice = now - runner.ticked_ns;
    runner.ticked_ns = now;
    runner.silent_ns = down_heard() ? 0 : runner.silent_ns + (slice < NS_PER_S ? slice : NS_PER_S);
    if (runner.silent_ns >= runner.lease_ns)
        leave(EXIT_LEASE, BY_LEASE);
}

static uint64_t earlier(uint64_t one, uint64_t other) { return one < other ? one : other; }

static uint64_t due_ns(uint64_t now) {
    uint64_t due = earlier(now + NS_PER_S, run_due_ns(now));
    if (runner.silent_ns < runner.lease_ns)
        due = earlier(due, now + runner.lease_ns - runner.silent_ns);
    if (now < runner.retry_in_ns)
        due = earlier(due, runner.retry_in_ns);
    if (now < runner.retry_out_ns && window_unsent())
        due = earlier(due, runner.retry_out_ns);
    if (runner.leaving)
        due = earlier(due, now + AGAIN_NS);
    return due > now ? due - now : 0;
}

static void wait_for_something(uint64_t now, bool more) {
    struct pollfd polls[3 + RUN_POLLS];
    int count = 0;
    polls[count++] = (struct pollfd){runner.children, POLLIN, 0};
    if (now >= runner.retry_in_ns)
        polls[count++] = (struct pollfd){0, POLLIN, 0};
    if (now >= runner.retry_out_ns && window_unsent() && !(run_holds_back(now) && window_can_wait()))
        polls[count++] = (struct pollfd){1, POLLOUT, 0};
    count += run_polls(polls + count);
    uint64_t wait = more ? 0 : due_ns(now);
    struct timespec time = {(time_t)(wait / NS_PER_S), (long)(wait % NS_PER_S)};
    ppoll(polls, (nfds_t)count, &time, NULL);
}

static void loop(void) {
    for (;;) {
        bool more = run_step();
        more |= step_files();
        more |= send_some(now_ns());
        more |= obey_ahead();  // after what the run before has to tell is on its way
        wait_for_something(now_ns(), more);
        uint64_t now = now_ns();
        receive(now);
        forget_signals();
        run_reap();
        count_lease(now);
        leave_when_done(now_ns());  // not before what leave() has noted
    }
}

static void prepare_descriptors(void) {
    for (int fd = 0; fd < 3; fd++)
        fcntl(fd, F_SETFD, FD_CLOEXEC);
    for (int fd = 3; fd < 10; fd++)
        close(fd);
    for (int fd = 0; fd < 2; fd++)
        need(fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK) == 0);
}

static void nothing(int number) { (void)number; }

static void prepare_signals(void) {
    sigset_t child;
    struct sigaction alarm = {.sa_handler = nothing, .sa_flags = SA_RESTART};
    sigemptyset(&child);
    sigaddset(&child, SIGCHLD);
    need(sigprocmask(SIG_SETMASK, &child, NULL) == 0);
    need(sigaction(SIGALRM, &alarm, NULL) == 0);
    runner.children = high_fd(signalfd(-1, &child, SFD_NONBLOCK | SFD_CLOEXEC));
    need(runner.children >= 0);
}

static void prepare(int argc, char **argv) {
    char *rest;
    need(argc == 2 && argv[0][0] == '/' && !access(argv[0], X_OK));
    double lease_s = strtod(argv[1], &rest);
    need(!*rest && lease_s > 0 && lease_s < 1e9);
    runner.path = argv[0];
    runner.lease_ns = (uint64_t)(lease_s * NS_PER_S);
    prepare_descriptors();
    prepare_signals();
    window_init();
    run_init();
    files_init();
    cgroup_init();
    runner.ticked_ns = runner.sent_ns = now_ns();
}

int main(int argc, char **argv) {
    if (argc > 1 && !strcmp(argv[1], "--launch"))
        return launch(argc, argv);
    if (getpid() != 1)  // its kill(-1) would end a whole machine
        return EXIT_NOT_FIRST;
    prctl(PR_SET_DUMPABLE, 0);
    prepare(argc, argv);
    loop();
}
