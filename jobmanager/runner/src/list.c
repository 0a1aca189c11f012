// LIST: all that is in a folder. The folder that is read is opened anew for each message, so nothing is held while the other end is slow.
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "files.h"
#include "runner.h"
#include "tree.h"

#define MOST_ENTRIES 100000u
#define MOST_DEPTH 64
#define ENTRY_SIZE 25u                        // of an entry, beside its path
#define ENTRIES_SIZE (UP_PAYLOAD - 13u)       // of all entries in a message

static struct {
    uint32_t request, entries;                // `entries`: that were seen, told or not
    int error;
    char base[PATH_SIZE], path[PATH_SIZE];    // `path`: of the folder that is read, below `base`
    int depth;
    int64_t next[MOST_DEPTH + 1];             // where to go on in each folder on the way
} list;

static struct {                               // entries of one message
    uint8_t bytes[ENTRIES_SIZE];
    size_t size;
    uint32_t count;
} page;

static int open_listed(void) {
    static char whole[PATH_SIZE * 2];
    char name[TREE_LAST_NAME];
    snprintf(whole, sizeof whole, "%s/%s", list.base, list.path);
    int parent = tree_open_parent(whole, name, false);
    if (parent < 0)
        return -1;
    int folder = tree_open_folder(parent, name), error = errno;
    close(parent);
    errno = error;
    return folder;
}

static void leave_folder(void) {
    char *slash = strrchr(list.path, '/');
    *(slash ? slash : list.path) = 0;
    list.depth--;
}

static uint8_t kind_of(mode_t mode) { return S_ISREG(mode) ? 0 : S_ISDIR(mode) ? 1 : S_ISLNK(mode) ? 2 : 3; }

static void add_entry(const char *path, size_t length, const struct stat *found) {
    uint8_t *at = page.bytes + page.size;
    put_u32(at, (uint32_t)length);
    memcpy(at + 4, path, length);
    at[4 + length] = kind_of(found->st_mode);
    put_u32(at + 5 + length, found->st_mode & 07777);
    put_u64(at + 9 + length, (uint64_t)found->st_mtime);
    put_u64(at + 17 + length, (uint64_t)found->st_size);
    page.size += length + ENTRY_SIZE;
    page.count++;
}

// Of several errors the first is told, but that something was left out is told before all others.
static void note_error(int error) {
    if (!list.error || error == E2BIG)
        list.error = error;
}

enum listed { LISTED, LISTED_FOLDER, NO_ROOM, TOO_MANY };

static enum listed list_entry(int folder, const char *name) {
    static char path[PATH_SIZE];
    struct stat found;
    int length = snprintf(path, sizeof path, "%s%s%s", list.path, *list.path ? "/" : "", name);
    if (length >= (int)sizeof path || list.entries == MOST_ENTRIES) {
        note_error(E2BIG);
        return list.entries == MOST_ENTRIES ? TOO_MANY : LISTED;
    }
    if (fstatat(folder, name, &found, AT_SYMLINK_NOFOLLOW)) {
        if (errno != ENOENT)  // it is not gone meanwhile
            note_error(errno);
        return LISTED;
    }
    if ((size_t)length + ENTRY_SIZE > ENTRIES_SIZE - page.size)
        return NO_ROOM;
    add_entry(path, (size_t)length, &found);
    if (!S_ISDIR(found.st_mode))
        return LISTED;
    if (list.depth == MOST_DEPTH) {
        note_error(E2BIG);
        return LISTED;
    }
    strcpy(list.path, path);
    return LISTED_FOLDER;
}

// Reads on in the folder that is read now; false: the message is full.
static bool list_folder(void) {
    struct entries entries;
    const char *name;
    int folder = open_listed();
    enum listed listed = LISTED;
    if (folder < 0) {
        if (!list.depth || errno != ENOENT)
            note_error(errno);
        leave_folder();
        return true;
    }
    entries_begin(&entries, folder, list.next[list.depth]);
    while (listed == LISTED && (name = entries_next(&entries))) {
        listed = list_entry(folder, name);
        if (listed == NO_ROOM)
            break;
        list.next[list.depth] = entries.next;
        list.entries++;
    }
    close(folder);
    if (listed == LISTED)
        leave_folder();
    if (listed == LISTED_FOLDER)
        list.next[++list.depth] = 0;
    if (listed == TOO_MANY)
        list.depth = -1;
    return listed != NO_ROOM;
}

static bool step_list(void) {
    page.size = page.count = 0;
    while (list.depth >= 0 && list_folder())
        continue;
    bool last = list.depth < 0;
    up_begin(UP_ENTRIES, list.request);
    up_u32(list.request);
    up_u32(last ? (uint32_t)list.error : 0);
    up_u8(last);
    up_u32(page.count);
    up_bytes(page.bytes, page.size);
    up_end();
    return !last;
}

void files_list(struct in *in) {
    list.request = in_u32(in);
    in_name(in, list.base, sizeof list.base);
    if (!in_done(in))
        return fault("LIST makes no sense");
    list.entries = 0;
    list.error = list.depth = 0;
    list.next[0] = 0;
    *list.path = 0;
    files_answer(step_list);
}
