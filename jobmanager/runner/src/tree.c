#define _GNU_SOURCE
#include "tree.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "runner.h"

struct linux_dirent64 {          // as the kernel writes it
    uint64_t ino;
    int64_t next;
    uint16_t length;
    uint8_t type;
    char name[];
};

// Finding

// Whether our own folder hides what is in it, though it may be readable: nothing can be entered or looked at.
static bool is_closed(int folder) {
    struct stat found;
    return !fstat(folder, &found) && found.st_uid == geteuid() && !(found.st_mode & S_IXUSR);
}

static int enter(int folder, const char *name, bool make) {
    int flags = O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC;
    int next = openat(folder, name, flags);
    if (next < 0 && errno == ENOENT && make && (!mkdirat(folder, name, 0755) || errno == EEXIST))
        next = openat(folder, name, flags);
    if (next >= 0 && is_closed(next))
        fchmodat(folder, name, 0700, AT_SYMLINK_NOFOLLOW);
    return next;
}

static const char *next_part(const char *path, char *part) {
    path += strspn(path, "/");
    size_t length = strcspn(path, "/");
    bool fits = length && length < TREE_LAST_NAME;
    memcpy(part, path, fits ? length : 0);
    part[fits ? length : 0] = 0;
    return path + length + strspn(path + length, "/");
}

static bool leads_up(const char *part) { return !*part || !strcmp(part, ".") || !strcmp(part, ".."); }

int tree_open_parent(const char *path, char *last, bool make) {
    int folder = path[0] == '/' ? open("/", O_PATH | O_DIRECTORY | O_CLOEXEC) : -1;
    errno = EINVAL;
    while (folder >= 0) {
        path = next_part(path, last);
        if (leads_up(last)) {
            close(folder);
            errno = EINVAL;
            return -1;
        }
        if (!*path)
            return high_fd(folder);
        int next = enter(folder, last, make), error = errno;
        close(folder);
        folder = next;
        errno = error;
    }
    return -1;
}

int tree_open_folder(int parent, const char *name) {
    int flags = O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC;
    int folder = openat(parent, name, flags);
    if (folder < 0 && errno == EACCES && !fchmodat(parent, name, 0700, AT_SYMLINK_NOFOLLOW))
        folder = openat(parent, name, flags);
    if (folder >= 0 && is_closed(folder))
        fchmod(folder, 0700);
    return high_fd(folder);
}

int tree_open_file(int parent, const char *name, int *error) {
    int flags = O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY | O_CLOEXEC;  // a fifo blocks nobody
    struct stat found;
    *error = fstatat(parent, name, &found, AT_SYMLINK_NOFOLLOW) ? errno : S_ISREG(found.st_mode) ? 0 : EINVAL;
    if (*error)
        return -1;
    int file = openat(parent, name, flags);
    if (file < 0 && errno == EACCES && !fchmodat(parent, name, 0600, AT_SYMLINK_NOFOLLOW))
        file = openat(parent, name, flags);
    *error = file < 0 ? errno : fstat(file, &found) ? errno : S_ISREG(found.st_mode) ? 0 : EINVAL;
    if (!*error)
        return high_fd(file);
    if (file >= 0)
        close(file);
    return -1;
}

// Entries

void entries_begin(struct entries *entries, int folder, int64_t from) {
    entries->folder = folder;
    entries->at = entries->count = 0;
    entries->next = from;
    lseek(folder, from, SEEK_SET);
}

static bool read_entries(struct entries *entries) {
    long got = syscall(SYS_getdents64, entries->folder, entries->bytes, sizeof entries->bytes);
    entries->at = 0;
    entries->count = got > 0 ? (size_t)got : 0;
    return got > 0;
}

const char *entries_next(struct entries *entries) {
    for (;;) {
        if (entries->at == entries->count && !read_entries(entries))
            return NULL;
        const struct linux_dirent64 *entry = (const void *)(entries->bytes + entries->at);
        entries->at += entry->length;
        entries->next = entry->next;
        if (strcmp(entry->name, ".") && strcmp(entry->name, ".."))
            return entry->name;
    }
}

// Removing

enum removed { REMOVED, FULL_FOLDER, IS_A_MOUNT, STAYS };

static enum removed remove_entry(int folder, const char *name) {
    for (int opened = 0;; opened++) {
        if (!unlinkat(folder, name, 0) || errno == ENOENT)
            return REMOVED;
        if (errno == EISDIR || errno == EPERM) {
            if (!unlinkat(folder, name, AT_REMOVEDIR))
                return REMOVED;
            if (errno == ENOTEMPTY || errno == EEXIST)
                return FULL_FOLDER;
            if (errno == EBUSY)
                return IS_A_MOUNT;
        }
        if (errno != EACCES || opened || fchmod(folder, 0700))
            return STAYS;
    }
}

// The name of a folder that is in the way, in `full`; empty: what is left cannot be removed, or nothing is left (then `clean`).
static bool remove_entries(int folder, char *full, uint64_t until, unsigned *mounts) {
    struct entries entries;
    const char *name;
    bool clean = true;
    *full = 0;
    entries_begin(&entries, folder, 0);
    while ((name = entries_next(&entries))) {
        if (now_ns() >= until)
            return false;
        enum removed removed = remove_entry(folder, name);
        clean &= removed == REMOVED || (removed == IS_A_MOUNT && mounts);
        if (removed == IS_A_MOUNT && mounts)
            ++*mounts;
        if (removed == FULL_FOLDER && strlen(name) < TREE_LAST_NAME) {
            strcpy(full, name);
            break;
        }
    }
    return clean;
}

static bool same(const struct stat *one, const struct stat *other) { return one->st_dev == other->st_dev && one->st_ino == other->st_ino; }

// The folder above; -1 where that would leave the file system: somebody has moved what we are in.
static int go_up(int folder, const struct stat *top, bool *is_top) {
    struct stat found;
    int above = openat(folder, "..", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    close(folder);
    if (above < 0)
        return -1;
    if (fstat(above, &found) || found.st_dev != top->st_dev) {
        close(above);
        return -1;
    }
    *is_top = same(&found, top);
    return high_fd(above);
}

// Down into each folder that is not empty, and up again when it is: one descriptor, whatever the depth.
bool tree_empty(int folder, unsigned *mounts) {
    uint64_t until = now_ns() + TREE_MOST_NS;
    char full[TREE_LAST_NAME];
    struct stat top;
    bool is_top = true, clean = false;
    int at = openat(folder, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    at = high_fd(at);
    if (at < 0 || fstat(at, &top))
        return false;
    while (at >= 0 && now_ns() < until) {
        if (mounts)
            *mounts = 0;
        clean = remove_entries(at, full, until, is_top ? mounts : NULL);
        int next = *full ? tree_open_folder(at, full) : -1;
        if (*full && next < 0)
            break;
        if (*full) {
            close(at);
            at = next;
            is_top = false;
        } else if (is_top || !clean) {
            break;
        } else {
            at = go_up(at, &top, &is_top);
            clean = false;
        }
    }
    if (at >= 0)
        close(at);
    return is_top && clean;
}

bool tree_remove(int parent, const char *name) {
    enum removed removed = remove_entry(parent, name);
    if (removed != FULL_FOLDER)
        return removed == REMOVED;
    int folder = tree_open_folder(parent, name);
    if (folder < 0)
        return false;
    bool empty = tree_empty(folder, NULL);
    close(folder);
    return empty && remove_entry(parent, name) == REMOVED;
}
