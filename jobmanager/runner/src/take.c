// A RUN is read: checked whole before anything of it is used.
#define _GNU_SOURCE
#include <stdio.h>
#include <string.h>

#include "files.h"
#include "run.h"

static uint8_t payload[DOWN_SIZE];
static char *vector[DOWN_SIZE / 4 + 1024];   // arguments, then the environment; it has pages only where it is used

void forget_run(void) {
    give_back(vector, sizeof vector);
    give_back(payload, sizeof payload);
}

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

void skip_name(struct in *in) {
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
    files_check_list(in);
}

static bool is_set(const char *entry, char **env, size_t count) {
    size_t name = strcspn(entry, "=");
    for (size_t i = 0; i < count; i++)
        if (!strncmp(entry, env[i], name) && env[i][name] == '=')
            return true;
    return false;
}

// Text is UTF-8 where nobody says what it is. Without a locale many programs take it for ASCII; the C library of an image that
// lacks this one goes on as without.
static const char *const names_of_the_locale[] = {"LANG", "LC_ALL", "LC_CTYPE"};

static bool has_locale(char **env, size_t count) {
    for (size_t i = 0; i < sizeof names_of_the_locale / sizeof *names_of_the_locale; i++)
        if (is_set(names_of_the_locale[i], env, count))
            return true;
    return false;
}

// The container's own environment under the run's, and a locale under both.
static void complete_env(char **end) {
    extern char **environ;
    size_t count = (size_t)(end - run.env), added = 0;
    for (char **entry = environ; *entry && added < 900; entry++)
        if (!is_set(*entry, run.env, count))
            run.env[count + added++] = *entry;
    if (!has_locale(run.env, count + added))
        run.env[count + added++] = "LANG=C.UTF-8";
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
    run.input_kind = in_choice(in, INPUT_FIFO);
    in_name(in, run.stdin_fifo, sizeof run.stdin_fifo);
    in_name(in, run.stdout_fifo, sizeof run.stdout_fifo);
    run.channel = in_flag(in);
    uint64_t wall_ms = in_u64(in);
    run.wall_ns = wall_ms > NO_COUNT / 2 / NS_PER_MS ? 0 : wall_ms * NS_PER_MS;
    run.cpu_us = in_u64(in);
    run.cpus_milli = in_u32(in);
    run.output_bytes = in_u64(in);
    run.drops = in_flag(in);
    read_limits(in);
    read_lists(in);
    in->bad |= run.input_kind == INPUT_FIFO ? !*run.stdin_fifo || !*run.stdout_fifo : *run.stdin_fifo || *run.stdout_fifo;
    if (!in_done(in))
        return false;
    end_strings(run.env, variables);
    end_strings(run.argv, arguments);
    run.env[-1] = NULL;
    complete_env(end);
    return true;
}

static void reset_run(void) {
    run.killed = run.reaped = run.left = run.input_last = run.input_over = false;
    run.by = BY_NOBODY;
    run.pid = 0;
    run.report = (struct launch_report){0};
    run.begun_ns = run.paused_ns = run.paused_at_ns = 0;
    run.peak_child = run.sampled_bytes = run.reported = run.used_cpu_us = 0;
    run.input_received = run.input_taken = run.messages_received = run.messages_taken = run.messages_up = 0;
    run.untold_bytes = run.untold_ns = run.drop_due_ns = 0;
    for (int i = 0; i < 2; i++)
        run.out[i] = (struct pipe_out){.fd = -1};
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
