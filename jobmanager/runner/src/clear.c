// Between two runs: everything that a program can have left is removed, and what cannot be is told.
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <linux/limits.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/ipc.h>
#include <sys/msg.h>
#include <sys/resource.h>
#include <sys/sem.h>
#include <sys/shm.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/syscall.h>
#include <sys/xattr.h>
#include <unistd.h>

#include "files.h"
#include "runner.h"
#include "tree.h"

#define QUEUES "/dev/mqueue"
#define TMPFS 0x01021994
#define OWN_FOLDER 0700          // as the engine mounts those that belong to the program's user
#define MOST_RLIMITS 16
#define MOST_PLACES 16384u       // bytes of their list

struct settings {                // of the runner itself, which what it starts inherits
    struct rlimit limits[MOST_RLIMITS];
    cpu_set_t cpus;
    long nice, policy, io;
};

static struct settings at_start;

static void read_settings(struct settings *settings) {
    memset(settings, 0, sizeof *settings);
    for (unsigned i = 0; i < MOST_RLIMITS; i++)
        getrlimit(i, &settings->limits[i]);
    sched_getaffinity(0, sizeof settings->cpus, &settings->cpus);
    settings->nice = getpriority(PRIO_PROCESS, 0);
    settings->policy = syscall(SYS_sched_getscheduler, 0);
    settings->io = syscall(SYS_ioprio_get, 1, 0);
}

void files_init(void) { read_settings(&at_start); }

static bool settings_are_as_before(void) {
    struct settings now;
    read_settings(&now);
    return !memcmp(&now, &at_start, sizeof now);
}

// System V objects: the container has a name space of its own for them.

static int remove_shm(int id) { return shmctl(id, IPC_RMID, NULL); }
static int remove_msg(int id) { return msgctl(id, IPC_RMID, NULL); }
static int remove_sem(int id) { return semctl(id, 0, IPC_RMID); }

// Whether none is left; a file that does not exist lists none.
static bool remove_objects(const char *path, int (*remove_object)(int)) {
    char line[512];
    bool none = true;
    FILE *file = fopen(path, "re");
    while (file && fgets(line, sizeof line, file)) {
        char *rest;
        strtol(line, &rest, 10);  // the key; the id comes after it
        if (rest == line)
            continue;             // the headline
        none &= !remove_object((int)strtol(rest, NULL, 10)) || errno == EINVAL || errno == EIDRM;
    }
    if (file)
        fclose(file);
    return none;
}

static bool remove_ipc(void) {
    bool none = remove_objects("/proc/sysvipc/shm", remove_shm);
    none &= remove_objects("/proc/sysvipc/msg", remove_msg);
    return remove_objects("/proc/sysvipc/sem", remove_sem) && none;
}

// Places

static int open_place(const char *path) {
    char name[TREE_LAST_NAME];
    int parent = tree_open_parent(path, name, false);
    if (parent < 0)
        return -1;
    int folder = tree_open_folder(parent, name);
    close(parent);
    return folder;
}

// What nobody sees any more may still take space: an empty tmpfs has only its own folder, and those on which something is mounted.
static bool is_free(int folder, unsigned mounts) {
    struct statfs space;
    if (fstatfs(folder, &space))
        return false;
    return space.f_type != TMPFS || (space.f_bfree == space.f_blocks && space.f_ffree + 1 + mounts >= space.f_files);
}

// What its owner can leave on a folder itself: attributes, access lists, flags, its mode and its times. The names are read once: none
// can come back, as nobody else runs.
static bool reset_folder(int folder) {
    static char names[XATTR_LIST_MAX];
    const struct timespec times[2] = {{0, 0}, {0, 0}};
    struct stat found;
    long flags = 0;
    if (fstat(folder, &found) || found.st_uid != geteuid())
        return true;              // it is not the program's own
    ssize_t size = flistxattr(folder, names, sizeof names);
    bool fine = size >= 0 || errno == ENOTSUP;
    for (char *name = names; size > 0 && name < names + size; name += strlen(name) + 1)
        fine &= !fremovexattr(folder, name) || errno == ENODATA;
    if (!ioctl(folder, FS_IOC_GETFLAGS, &flags) && flags) {
        flags = 0;
        fine &= !ioctl(folder, FS_IOC_SETFLAGS, &flags);
    }
    return !fchmod(folder, OWN_FOLDER) && !futimens(folder, times) && fine;
}

static const char *clear_place(const char *path) {
    int folder = open_place(path);
    if (folder < 0)
        return "it cannot be opened";
    unsigned mounts = 0;
    const char *why = !tree_empty(folder, &mounts) ? "something is left that cannot be removed"
        : !reset_folder(folder) ? "its mode or its attributes cannot be set back"
        : is_free(folder, mounts) ? NULL : "something still takes space";
    close(folder);
    return why;
}

static struct {
    uint32_t request, count;
    bool puts_back;
    uint8_t places[MOST_PLACES];
    size_t size;
    bool fits;
} asked;

static const char *clear(char *path, size_t size) {
    struct in places = {asked.places, asked.places + asked.size, false};
    *path = 0;
    if (!asked.fits)
        return "the list of places is too long";
    files_close_put();
    if (!kill_all())
        return "a process cannot be ended";
    for (uint32_t i = 0; i < asked.count; i++) {
        in_name(&places, path, size);
        const char *why = clear_place(path);
        if (why)
            return why;
    }
    *path = 0;
    if (!access(QUEUES, F_OK) && clear_place(QUEUES))
        return "a message queue cannot be removed";
    if (!remove_ipc())
        return "an object of System V cannot be removed";
    if (!settings_are_as_before())
        return "a limit or priority of the runner was changed";
    return asked.puts_back ? files_put_back() : NULL;
}

static bool step_clear(void) {
    static char path[PATH_SIZE], text[PATH_SIZE + 64];
    const char *why = clear(path, sizeof path);
    int length = why ? snprintf(text, sizeof text, "%s%s%s", path, *path ? ": " : "", why) : 0;
    if (why)
        files_remember(WHY_NOT_CLEAN, 0, text);
    up_begin(UP_CLEARED, asked.request);
    up_u32(asked.request);
    up_u8(!why);
    up_text(text, (size_t)length);
    up_end();
    return false;
}

bool files_clearing(void) { return files_answers(step_clear); }

void files_clear(struct in *in) {
    static char path[PATH_SIZE];
    asked.request = in_u32(in);
    asked.puts_back = in_flag(in);
    asked.count = in_count(in, 4);
    struct in places = *in;
    for (uint32_t i = 0; i < asked.count; i++)
        in_name(in, path, sizeof path);
    asked.size = (size_t)(in->at - places.at);
    if (!in_done(in))
        return fault("CLEAR makes no sense");
    asked.fits = asked.size <= MOST_PLACES;
    memcpy(asked.places, places.at, asked.fits ? asked.size : 0);
    files_answer(step_clear);
}
