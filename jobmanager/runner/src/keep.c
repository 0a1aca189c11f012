// KEEP: a folder with all that is in it is packed into memory that only the runner holds, and sealed. CLEAR puts it back.
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <unistd.h>

#include "files.h"
#include "runner.h"
#include "walk.h"

#define NONE UINT64_MAX
#define TMPFS_MAGIC 0x01021994
#define SEALS (F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE | F_SEAL_SEAL)

struct packed {                  // before the path and the content of each entry, which ends at a multiple of 8 bytes
    uint64_t size;               // of the content: a file's bytes, or where a link leads
    uint64_t folder_before;      // where the folder before this one is; NONE: this is the first, or no folder
    struct timespec changed;
    uint32_t mode, path_length;
};

static struct {
    int memory;                  // -1: nothing is kept
    uint64_t size, last_folder;
    uint32_t entries;
    char base[PATH_SIZE];
} kept = {.memory = -1};

static struct {                  // while it is packed
    uint8_t bytes[65536];
    size_t used;
    uint64_t most;
    int error;
} packing;

static struct walk tree;

static void forget(void) {
    if (kept.memory >= 0)
        close(kept.memory);
    kept.memory = -1;
}

// Packing

static void flush(void) {
    size_t done = 0;
    while (!packing.error && done < packing.used) {
        ssize_t wrote = write(kept.memory, packing.bytes + done, packing.used - done);
        if (wrote <= 0)
            packing.error = wrote < 0 ? errno : ENOSPC;
        else
            done += (size_t)wrote;
    }
    packing.used = 0;
}

static void pack(const void *bytes, size_t count) {
    if (kept.size + count > packing.most)
        packing.error = EFBIG;
    if (packing.error)
        return;
    if (packing.used + count > sizeof packing.bytes)
        flush();
    memcpy(packing.bytes + packing.used, bytes, count);
    packing.used += count;
    kept.size += count;
}

static void pack_padding(void) { pack((const uint8_t[8]){0}, -kept.size % sizeof(uint64_t)); }

static void pack_content(int file, uint64_t size) {
    uint8_t bytes[16384];
    while (size && !packing.error) {
        ssize_t got = read(file, bytes, size < sizeof bytes ? (size_t)size : sizeof bytes);
        if (got <= 0)
            packing.error = got < 0 ? errno : EIO;
        else
            pack(bytes, (size_t)got);
        size -= got > 0 ? (uint64_t)got : 0;
    }
}

static void pack_head(uint64_t size) {
    struct packed head = {
        .size = size, .folder_before = NONE, .changed = tree.found.st_mtim, .mode = tree.found.st_mode,
        .path_length = (uint32_t)strlen(tree.entry),
    };
    uint64_t at = kept.size;
    if (S_ISDIR(head.mode)) {
        head.folder_before = kept.last_folder;
        kept.last_folder = at;
    }
    pack(&head, sizeof head);
    pack(tree.entry, head.path_length);
    kept.entries++;
}

static void pack_file(void) {
    int file = tree_open_file(tree.folder, tree.name, &packing.error);
    if (file < 0)
        return;
    pack_head((uint64_t)tree.found.st_size);
    pack_content(file, (uint64_t)tree.found.st_size);
    close(file);
}

static void pack_link(void) {
    char target[PATH_SIZE];
    ssize_t length = readlinkat(tree.folder, tree.name, target, sizeof target);
    if (length < 0 || length == (ssize_t)sizeof target) {
        packing.error = length < 0 ? errno : ENAMETOOLONG;
        return;
    }
    pack_head((uint64_t)length);
    pack(target, (size_t)length);
}

// Sockets, fifos and devices are no products of anything.
static void pack_entry(void) {
    if (S_ISREG(tree.found.st_mode))
        pack_file();
    else if (S_ISLNK(tree.found.st_mode))
        pack_link();
    else if (S_ISDIR(tree.found.st_mode))
        pack_head(0);
    pack_padding();
}

// Found out before anything is copied: what is in memory already, and too large, would take that of the whole container.
static bool is_more_than(uint64_t most) {
    struct statfs found;
    if (statfs(kept.base, &found) || found.f_type != TMPFS_MAGIC)
        return false;
    return (uint64_t)(found.f_blocks - found.f_bfree) * (uint64_t)found.f_bsize > most;
}

static void pack_tree(uint64_t most) {
    packing.used = 0;
    packing.most = most;
    packing.error = is_more_than(most) ? EFBIG : 0;
    kept.size = kept.entries = 0;
    kept.last_folder = NONE;
    if (packing.error)
        return;
    kept.memory = high_fd(memfd_create("kept", MFD_CLOEXEC | MFD_ALLOW_SEALING));
    if (kept.memory < 0)
        packing.error = errno;
    strcpy(tree.base, kept.base);
    walk_begin(&tree);
    while (!packing.error && walk_entry(&tree)) {
        pack_entry();
        walk_take(&tree);
    }
    walk_pause(&tree);
    flush();
    if (!packing.error)
        packing.error = tree.error;
    if (!packing.error && fcntl(kept.memory, F_ADD_SEALS, SEALS))
        packing.error = errno;
    if (packing.error)
        forget();
}

static struct {
    uint32_t request;
    uint64_t most;
} asked;

static bool step_keep(void) {
    pack_tree(asked.most);
    up_begin(UP_KEPT, asked.request);
    up_u32(asked.request);
    up_u32((uint32_t)packing.error);
    up_u32(packing.error ? 0 : kept.entries);
    up_u64(packing.error ? 0 : kept.size);
    up_end();
    return false;
}

void files_keep(struct in *in) {
    asked.request = in_u32(in);
    in_name(in, kept.base, sizeof kept.base);
    asked.most = in_u64(in);
    forget();
    if (!in_done(in))
        return fault("KEEP makes no sense");
    files_answer(step_keep);
}

// Putting back

static bool write_all(int file, const uint8_t *bytes, uint64_t count) {
    while (count) {
        ssize_t wrote = write(file, bytes, count < 1u << 30 ? (size_t)count : 1u << 30);
        if (wrote <= 0)
            return false;
        bytes += wrote;
        count -= (uint64_t)wrote;
    }
    return true;
}

static bool put_back_file(int parent, const char *name, const struct packed *head, const uint8_t *content) {
    int file = openat(parent, name, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
    const struct timespec times[2] = {head->changed, head->changed};
    bool fine = file >= 0 && write_all(file, content, head->size) && !fchmod(file, head->mode & 07777) && !futimens(file, times);
    if (file >= 0)
        close(file);
    return fine;
}

static bool put_back_link(int parent, const char *name, const struct packed *head, const uint8_t *content) {
    char target[PATH_SIZE];
    const struct timespec times[2] = {head->changed, head->changed};
    memcpy(target, content, head->size);
    target[head->size] = 0;
    return !symlinkat(target, parent, name) && !utimensat(parent, name, times, AT_SYMLINK_NOFOLLOW);
}

// The parent of an entry, and its name in there; -1.
static int open_above(const struct packed *head, char *name) {
    static char whole[PATH_SIZE * 2];
    snprintf(whole, sizeof whole, "%s/%.*s", kept.base, (int)head->path_length, (const char *)(head + 1));
    return tree_open_parent(whole, name, false);
}

static bool put_back(const struct packed *head) {
    char name[TREE_LAST_NAME];
    const uint8_t *content = (const uint8_t *)(head + 1) + head->path_length;
    int parent = open_above(head, name);
    if (parent < 0)
        return false;
    bool fine = S_ISDIR(head->mode) ? !mkdirat(parent, name, 0700)
        : S_ISLNK(head->mode) ? put_back_link(parent, name, head, content)
        : put_back_file(parent, name, head, content);
    close(parent);
    return fine;
}

// After what is in it, from the last one to the first: each is closed and dated when nothing more comes.
static bool finish_folder(const struct packed *head) {
    char name[TREE_LAST_NAME];
    const struct timespec times[2] = {head->changed, head->changed};
    int parent = open_above(head, name);
    bool fine = parent >= 0 && !fchmodat(parent, name, head->mode & 07777, AT_SYMLINK_NOFOLLOW)
        && !utimensat(parent, name, times, AT_SYMLINK_NOFOLLOW);
    if (parent >= 0)
        close(parent);
    return fine;
}

static uint64_t after(const struct packed *head) {
    uint64_t size = sizeof *head + head->path_length + head->size;
    return size + -size % sizeof(uint64_t);
}

const char *files_put_back(void) {
    if (kept.memory < 0)
        return "nothing was kept";
    const uint8_t *memory = kept.size ? mmap(NULL, kept.size, PROT_READ, MAP_SHARED, kept.memory, 0) : NULL;
    if (memory == MAP_FAILED)
        return "what was kept cannot be read";
    bool fine = true;
    for (uint64_t at = 0; fine && at < kept.size; at += after((const void *)(memory + at)))
        fine = put_back((const void *)(memory + at));
    for (uint64_t at = kept.last_folder; fine && at != NONE; at = ((const struct packed *)(memory + at))->folder_before)
        fine = finish_folder((const void *)(memory + at));
    if (memory)
        munmap((void *)(uintptr_t)memory, kept.size);
    return fine ? NULL : "what was kept cannot be put back";
}
