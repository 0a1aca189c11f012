// The end of a run as a message.
#define _GNU_SOURCE
#include <string.h>
#include <sys/statvfs.h>
#include <sys/wait.h>

#include "run.h"

static uint64_t difference(uint64_t after, uint64_t before) { return after == NO_COUNT || before == NO_COUNT ? NO_COUNT : after - before; }

static void report_peak(void) {
    bool rose = run.after.peak_bytes != NO_COUNT && run.after.peak_bytes > run.before.peak_bytes;
    uint64_t seen = run.sampled_bytes > run.peak_child ? run.sampled_bytes : run.peak_child;
    if (rose || seen > run.after.peak_bytes)  // a process's own peak has pages of programs that others have paid for
        seen = run.after.peak_bytes;
    up_u64(seen ? seen : NO_COUNT);
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

bool step_reporting(void) {
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
    up_u8(run.input_over);
    up_end();
    return true;
}
