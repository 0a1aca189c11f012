// What the parts of the runner share.
#ifndef RUNNER_H
#define RUNNER_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "wire.h"

#define NO_COUNT UINT64_MAX            // a counter that the kernel does not have
#define NS_PER_MS 1000000ull
#define NS_PER_S 1000000000ull

enum state { STATE_NEW, STATE_IDLE, STATE_RUNNING, STATE_ENDING, STATE_LEAVING };
enum why {
    WHY_NO_PROGRAM = 1, WHY_FOLDER, WHY_NOT_EXECUTABLE, WHY_NO_CWD, WHY_PUT, WHY_REMOVE, WHY_DEVICE, WHY_OTHER,
    WHY_NO_INTERPRETER, WHY_TOO_LONG, WHY_KILLED, WHY_NO_PROCESS, WHY_NOT_CLEAN
};
enum stopped_by { BY_NOBODY, BY_WALL, BY_CPU, BY_OUTPUT, BY_KILL, BY_LEASE, BY_LEAVE };
enum exit_code { EXIT_LEAVE = 0, EXIT_LEASE = 120, EXIT_FAULT = 121, EXIT_NEED = 122, EXIT_NOT_FIRST = 123 };

struct runner {
    enum state state;
    const char *path;                  // of this program
    char put_to[PATH_SIZE];            // path of the last PUT: files.c sets it, STATUS tells it
    uint64_t lease_ns, silent_ns;      // how long nothing was heard
    uint64_t ticked_ns;                // when the lease was counted last
    bool leaving;                      // as soon as the run is over
    enum exit_code leave_code;
    uint64_t sent_ns;                  // when standard output last took something, or there was nothing for it
    uint64_t retry_out_ns, retry_in_ns;   // a closed end is tried again then
    int children;                      // signalfd of SIGCHLD
};
extern struct runner runner;

uint64_t now_ns(void);
void need(bool fine);                  // leaves with 122 otherwise
int high_fd(int fd);                   // the same one above those that a program gets, closed on exec
bool kill_all(void);                   // every other process, and reaps them; within 10 s; whether all are gone

// run.c
void run_init(void);                   // takes the reserve
void run_input(struct in *in);
void run_start(struct in *in);
void run_message(struct in *in);
void run_kill(uint32_t run);
void run_stop(enum stopped_by by);
bool run_is_on(void);
bool run_holds_back(uint64_t now);     // whether what it has to tell can wait for more
uint32_t run_last(void);
uint64_t run_taken_input(void);
uint64_t run_taken_messages(void);
uint64_t run_cpu_us(void);             // so far, without the runner's own; NO_COUNT: none is going on, or nothing counts it
bool run_reap(void);                   // all children that have ended; whether there is none left
bool run_step(void);                   // what is due; whether there was something
uint64_t run_due_ns(uint64_t now);     // when run_step, or what is held back, is due at the latest
struct pollfd;
int run_polls(struct pollfd *polls);   // at most RUN_POLLS
#define RUN_POLLS 6
void run_abandon(void);                // after a fault: nothing more is reported

// launch.c: the second stage. It tells by a pipe what it did.
enum launch_about { ABOUT_BEGIN = 1, ABOUT_PROGRAM, ABOUT_CWD, ABOUT_RLIMIT, ABOUT_OOM };
struct launch_report {
    uint32_t about, why, error, unused;
    uint64_t begun_ns;
};
#define LAUNCH_FD 4
#define LAUNCH_FIXED 6                 // arguments before the rlimits: path --launch CWD UMASK CHANNEL RLIMITS
int launch(int argc, char **argv);

// cgroup.c
struct counters {
    uint64_t cpu_us, peak_bytes, oom_kills, fork_refusals;
};
void cgroup_init(void);
uint8_t cgroup_version(void);          // 0: none found
uint64_t cgroup_cpu_us(void);
uint64_t cgroup_memory_bytes(void);    // what processes and memory files have now
void cgroup_read(struct counters *counters);
bool cgroup_had_room(const struct counters *counters, uint64_t bytes);

#endif
