// What the kernel counts for this container. The files stay open: a run costs a few reads.
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "runner.h"

struct source {
    int file;             // -1: the kernel does not have it
    const char *key;      // NULL: the file is one number
    uint64_t divisor;
};

enum { CPU, PEAK, LIMIT, OOM, FORKS, ANON, SHMEM, SOURCES };
static struct source sources[SOURCES];
static uint8_t version;

// It is read at once: the first time the kernel needs memory for it, and later a program may have left none.
static void open_source(int which, const char *path, const char *key, uint64_t divisor) {
    if (sources[which].file >= 0)
        return;
    int file = open(path, O_RDONLY | O_CLOEXEC);
    char text[4096];
    if (file >= 0 && pread(file, text, sizeof text, 0) < 0) {
        close(file);
        file = -1;
    }
    sources[which] = (struct source){file < 0 ? -1 : high_fd(file), key, divisor};
}

void cgroup_init(void) {
    for (int i = 0; i < SOURCES; i++)
        sources[i].file = -1;
    if (!access("/sys/fs/cgroup/cgroup.controllers", F_OK)) {
        version = 2;
        open_source(CPU, "/sys/fs/cgroup/cpu.stat", "usage_usec", 1);
        open_source(PEAK, "/sys/fs/cgroup/memory.peak", NULL, 1);
        open_source(LIMIT, "/sys/fs/cgroup/memory.max", NULL, 1);
        open_source(OOM, "/sys/fs/cgroup/memory.events", "oom_kill", 1);
        open_source(FORKS, "/sys/fs/cgroup/pids.events", "max", 1);
        open_source(ANON, "/sys/fs/cgroup/memory.stat", "anon", 1);
        open_source(SHMEM, "/sys/fs/cgroup/memory.stat", "shmem", 1);
        return;
    }
    open_source(CPU, "/sys/fs/cgroup/cpuacct/cpuacct.usage", NULL, 1000);
    open_source(CPU, "/sys/fs/cgroup/cpu,cpuacct/cpuacct.usage", NULL, 1000);
    open_source(PEAK, "/sys/fs/cgroup/memory/memory.max_usage_in_bytes", NULL, 1);
    open_source(LIMIT, "/sys/fs/cgroup/memory/memory.limit_in_bytes", NULL, 1);
    open_source(OOM, "/sys/fs/cgroup/memory/memory.oom_control", "oom_kill", 1);
    open_source(FORKS, "/sys/fs/cgroup/pids/pids.events", "max", 1);
    open_source(ANON, "/sys/fs/cgroup/memory/memory.stat", "rss", 1);
    open_source(SHMEM, "/sys/fs/cgroup/memory/memory.stat", "shmem", 1);
    version = sources[CPU].file >= 0 || sources[PEAK].file >= 0;
}

uint8_t cgroup_version(void) { return version; }

// The line that begins with the key and a space; the whole text where there is no key.
static const char *line_of(const char *text, const char *key) {
    size_t length = key ? strlen(key) : 0;
    while (key && (strncmp(text, key, length) || text[length] != ' ')) {
        text = strchr(text, '\n');
        if (!text)
            return NULL;
        text++;
    }
    return text + length;
}

static uint64_t count(int which) {
    char text[4096];
    ssize_t got = sources[which].file < 0 ? -1 : pread(sources[which].file, text, sizeof text - 1, 0);
    if (got <= 0)
        return NO_COUNT;
    text[got] = 0;
    const char *number = line_of(text, sources[which].key);
    return number ? strtoull(number, NULL, 10) / sources[which].divisor : NO_COUNT;
}

uint64_t cgroup_cpu_us(void) { return count(CPU); }

uint64_t cgroup_memory_bytes(void) {
    uint64_t anon = count(ANON), shmem = count(SHMEM);
    return anon == NO_COUNT || shmem == NO_COUNT ? NO_COUNT : anon + shmem;
}

void cgroup_read(struct counters *counters) {
    *counters = (struct counters){count(CPU), count(PEAK), count(OOM), count(FORKS)};
}

// Whether so many bytes have always been free, and nobody has died for lack of memory: a group above this one may have less. Where
// the kernel does not count that, nobody knows.
bool cgroup_had_room(const struct counters *counters, uint64_t bytes) {
    uint64_t limit = count(LIMIT);
    if (counters->oom_kills)
        return false;
    return limit != NO_COUNT && counters->peak_bytes != NO_COUNT && limit >= bytes && counters->peak_bytes <= limit - bytes;
}
