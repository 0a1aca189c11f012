// A run, as the parts of it share it: take.c reads it, start.c starts it, feed.c moves its bytes, run.c leads, report.c tells its end.
#ifndef RUN_H
#define RUN_H

#include "runner.h"

#define QUEUE_SIZE 65536u        // the other end sends no more than this beyond what was taken
#define TAKEN_NS (100 * NS_PER_MS)   // a small number of bytes that were taken is reported after this time
#define MOST_LIMITS 64

enum phase { OFF, DUE, MEETING, LAUNCHING, GOING, STOPPED, DRAINING, BRINGING, REPORTING };
enum input_kind { INPUT_NOTHING, INPUT_MEMORY, INPUT_PIPE, INPUT_FIFO };

enum met { NOT_YET, MET, LEFT_ALONE };

struct pipe_out {
    int fd;                      // -1: closed
    uint64_t offset;             // bytes that were reported
    uint64_t read;               // bytes that it wrote
};

struct run {
    enum phase phase;
    uint32_t number;             // the last one taken
    bool killed;                 // by KILL before it began
    enum stopped_by by;
    pid_t pid;
    bool reaped;
    int status;
    uint64_t peak_child;         // bytes, of the first process

    char cwd[PATH_SIZE], stdin_fifo[PATH_SIZE], stdout_fifo[PATH_SIZE];
    uint32_t umask;
    enum input_kind input_kind;
    bool channel;
    uint64_t wall_ns, cpu_us, output_bytes;
    bool drops;                  // output past output_bytes does not stop it
    uint32_t cpus_milli, limit_count;
    char limits[MOST_LIMITS][48];
    struct in places, volumes, bring;   // their lists, in `payload`
    uint32_t place_count, volume_count;
    char **argv, **env;

    int launched;                // the pipe of its second stage
    struct launch_report report;
    uint64_t begun_ns, ended_ns, paused_ns, paused_at_ns, cpu_due_ns, sample_due_ns;
    struct counters before, after;
    uint64_t own_cpu_us, used_cpu_us, sampled_bytes;
    bool left;

    int held[2];                 // the runner's own ends of the fifos that the program has; -1: closed
    int looks[2];                // how often in a row the program had this one closed
    bool input_over;             // the other program had left when this one ended

    struct pipe_out out[2];
    uint64_t reported;           // bytes of both
    uint64_t drop_due_ns;        // when what is dropped is read again; 0: as soon as there is some
    int stdin_pipe, socket;
    bool input_last;
    uint64_t input_received, input_taken, messages_received, messages_taken, messages_up;
    uint64_t untold_bytes, untold_ns;
};
extern struct run run;

// run.c
void shut(int *fd);
void take_reserve(void);
uint64_t own_cpu_us(void);
void begin_clocks(void);
void refuse(enum why why, int error, const char *what, size_t length);
void refuse_text(enum why why, int error, const char *what);

// take.c
void skip_name(struct in *in);
void forget_run(void);           // gives the memory of its payload back

// start.c
bool step_due(void);
bool step_meeting(void);
bool step_launching(void);

// fifos.c
bool open_fifos(void);           // false: not to be had, errno says why
enum met meet(void);             // the other runner
void let_fifos_go(void);
void look_at_fifos(void);
bool input_is_over(void);

// feed.c
void forget_input(void);         // what was sent for this run or an earlier one
int input_error(void);           // of keeping it, for this run
int input_file(void);            // -1: nothing was sent for this run
bool feed_what_came_before(void);   // false: more than the run may have before it
bool input_waits(void);
bool messages_wait(void);
void write_input(void);
void write_messages(void);
bool read_output(int which, bool at_end);
bool output_is_dropped(void);    // all that comes from now on
bool read_socket(void);
void shut_socket(void);
bool report_taken(bool now);

// report.c
bool step_reporting(void);

#endif
