// What the other end puts into a container and removes from it. What fails is kept for the next RUN.
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <fnmatch.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "files.h"
#include "runner.h"
#include "tree.h"

#define MOST_PARTS 16u           // of a pattern: each holds a descriptor

enum kind { KIND_FILE, KIND_FOLDER };

static struct refusal refusal;
static struct {
    int file;                    // whose pieces are coming; -1: none
    char path[PATH_SIZE];
} open_put = {.file = -1};

const struct refusal *files_refusal(void) { return refusal.why ? &refusal : NULL; }
void files_forget_refusal(void) { refusal.why = 0; }

void files_remember(enum why why, int error, const char *what) {
    if (refusal.why)
        return;
    refusal.why = (uint8_t)why;
    refusal.error = (uint32_t)error;
    snprintf(refusal.what, sizeof refusal.what, "%s", what);
}

// PUT

void files_close_put(void) {
    if (open_put.file >= 0)
        close(open_put.file);
    open_put.file = -1;
}

static int put_folder(const char *path, mode_t mode, const struct timespec times[2]) {
    char name[TREE_LAST_NAME];
    int parent = tree_open_parent(path, name, true), error = 0;
    if (parent < 0)
        return errno;
    int folder = mkdirat(parent, name, 0700) && errno != EEXIST ? -1 : tree_open_folder(parent, name);
    if (folder < 0 && (errno == ENOTDIR || errno == ELOOP) && !unlinkat(parent, name, 0) && !mkdirat(parent, name, 0700))
        folder = tree_open_folder(parent, name);
    if (folder < 0 || fchmod(folder, mode) || futimens(folder, times))
        error = errno;
    if (folder >= 0)
        close(folder);
    close(parent);
    return error;
}

static int begin_file(const char *path) {
    char name[TREE_LAST_NAME];
    files_close_put();
    int parent = tree_open_parent(path, name, true);
    if (parent < 0)
        return errno;
    bool stays = unlinkat(parent, name, 0) && errno != ENOENT;
    int file = stays ? -1 : openat(parent, name, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600), error = errno;
    close(parent);
    if (file < 0)
        return error;
    open_put.file = high_fd(file);
    snprintf(open_put.path, sizeof open_put.path, "%s", path);
    return 0;
}

static int write_piece(const uint8_t *data, size_t length, uint64_t offset) {
    if (offset > INT64_MAX - length)
        return EFBIG;
    while (length) {
        ssize_t wrote = pwrite(open_put.file, data, length, (off_t)offset);
        if (wrote <= 0)
            return wrote < 0 ? errno : ENOSPC;
        data += wrote;
        offset += (uint64_t)wrote;
        length -= (size_t)wrote;
    }
    return 0;
}

static int end_file(mode_t mode, const struct timespec times[2]) {
    int error = fchmod(open_put.file, mode) || futimens(open_put.file, times) ? errno : 0;
    files_close_put();
    return error;
}

void files_put(struct in *in) {
    static char path[PATH_SIZE];
    uint32_t length;
    enum kind kind = in_choice(in, KIND_FOLDER);
    in_name(in, path, sizeof path);
    mode_t mode = in_u32(in) & 07777;
    time_t made_s = (time_t)in_i64(in);
    uint64_t offset = in_u64(in);
    bool last = in_flag(in);
    const uint8_t *data = in_text(in, &length);
    if (!in_done(in))
        return fault("PUT makes no sense");
    strcpy(runner.put_to, path);
    const struct timespec times[2] = {{made_s, 0}, {made_s, 0}};
    int error = 0;
    if (kind == KIND_FOLDER)
        error = put_folder(path, mode, times);
    else if (!offset)
        error = begin_file(path);
    else if (open_put.file < 0 || strcmp(open_put.path, path))
        error = refusal.why ? 0 : ENOENT;  // its beginning has failed, and that is known
    if (kind == KIND_FILE && open_put.file >= 0 && !error)
        error = write_piece(data, length, offset);
    if (kind == KIND_FILE && open_put.file >= 0 && !error && last)
        error = end_file(mode, times);
    if (!error)
        return;
    files_close_put();
    files_remember(WHY_PUT, error, path);
}

// REMOVE

struct pattern {
    uint64_t until;              // where somebody else goes on filling the folders
    char parts[MOST_PARTS][TREE_LAST_NAME];
    uint32_t count;
};

static bool matches(const char *part, const char *name) { return !fnmatch(part, name, FNM_PERIOD); }

static bool remove_matching(int folder, const struct pattern *pattern, uint32_t part);

static bool remove_below(int folder, const char *name, const struct pattern *pattern, uint32_t part) {
    struct stat found;
    if (fstatat(folder, name, &found, AT_SYMLINK_NOFOLLOW))
        return errno == ENOENT;
    if (S_ISLNK(found.st_mode))
        return tree_remove(folder, name);
    if (!S_ISDIR(found.st_mode))
        return true;
    int below = tree_open_folder(folder, name);
    if (below < 0)
        return errno == ENOENT;
    bool gone = remove_matching(below, pattern, part + 1);
    close(below);
    return gone;
}

// Again from the beginning after each that was removed would be slow; what a listing passes over meanwhile, a second one finds.
static bool remove_matching(int folder, const struct pattern *pattern, uint32_t part) {
    bool is_last = part + 1 == pattern->count, gone = true;
    for (int round = 0; round < 1 + is_last; round++) {
        struct entries entries;
        const char *name;
        entries_begin(&entries, folder, 0);
        while ((name = entries_next(&entries))) {
            if (now_ns() >= pattern->until)
                return false;
            if (matches(pattern->parts[part], name))
                gone &= is_last ? tree_remove(folder, name) : remove_below(folder, name, pattern, part);
        }
    }
    return gone;
}

static void tell_pattern(char *text, size_t size, const char *base, const struct pattern *pattern) {
    size_t used = (size_t)snprintf(text, size, "%s", base);
    for (uint32_t i = 0; i < pattern->count && used < size; i++)
        used += (size_t)snprintf(text + used, size - used, "/%s", pattern->parts[i]);
}

static bool remove_from(const char *base, const struct pattern *pattern) {
    char name[TREE_LAST_NAME];
    int parent = tree_open_parent(base, name, false);
    int folder = parent < 0 ? -1 : tree_open_folder(parent, name);
    bool gone = folder >= 0 && remove_matching(folder, pattern, 0);
    if (parent >= 0)
        close(parent);
    if (folder >= 0)
        close(folder);
    return gone;
}

static bool read_parts(struct in *in, struct pattern *pattern, uint32_t count) {
    static char part[PATH_SIZE];
    bool fits = count && count <= MOST_PARTS;
    pattern->until = now_ns() + TREE_MOST_NS;
    pattern->count = 0;
    for (uint32_t i = 0; i < count; i++) {
        in_name(in, part, sizeof part);
        fits &= *part && strlen(part) < TREE_LAST_NAME;
        if (fits)
            strcpy(pattern->parts[pattern->count++], part);
    }
    return fits;
}

void files_remove(struct in *in) {
    static char base[PATH_SIZE], told[PATH_SIZE];
    static struct pattern pattern;
    in_name(in, base, sizeof base);
    bool fits = read_parts(in, &pattern, in_count(in, 4));
    if (!in_done(in))
        return fault("REMOVE makes no sense");
    if (fits && remove_from(base, &pattern))
        return;
    tell_pattern(told, sizeof told, base, &pattern);
    files_remember(WHY_REMOVE, fits ? 0 : EINVAL, told);
}
