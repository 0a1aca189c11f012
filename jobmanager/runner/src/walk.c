#define _GNU_SOURCE
#include "walk.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

static int open_here(const struct walk *walk) {
    static char whole[PATH_SIZE * 2];
    char name[TREE_LAST_NAME];
    snprintf(whole, sizeof whole, "%s/%s", walk->base, walk->path);
    int parent = tree_open_parent(whole, name, false);
    if (parent < 0)
        return -1;
    int folder = tree_open_folder(parent, name), error = errno;
    close(parent);
    errno = error;
    return folder;
}

static void note_error(struct walk *walk, int error) {
    if (!walk->error || error == E2BIG)
        walk->error = error;
}

static void close_folder(struct walk *walk) {
    if (walk->folder >= 0)
        close(walk->folder);
    walk->folder = -1;
}

static void leave_folder(struct walk *walk) {
    char *slash = strrchr(walk->path, '/');
    close_folder(walk);
    *(slash ? slash : walk->path) = 0;
    walk->depth--;
}

static bool enter_folder(struct walk *walk) {
    if (walk->folder >= 0)
        return true;
    walk->folder = open_here(walk);
    if (walk->folder >= 0) {
        entries_begin(&walk->names, walk->folder, walk->next[walk->depth]);
        return true;
    }
    if (!walk->depth || errno != ENOENT)
        note_error(walk, errno);
    leave_folder(walk);
    return false;
}

// Whether it can be told. One that is gone meanwhile is no error.
static bool look_at(struct walk *walk) {
    int length = snprintf(walk->entry, sizeof walk->entry, "%s%s%s", walk->path, *walk->path ? "/" : "", walk->name);
    int error = length >= (int)sizeof walk->entry ? E2BIG : fstatat(walk->folder, walk->name, &walk->found, AT_SYMLINK_NOFOLLOW) ? errno : 0;
    if (error && error != ENOENT)
        note_error(walk, error);
    return !error;
}

void walk_begin(struct walk *walk) {
    walk->entries = 0;
    walk->error = walk->depth = 0;
    walk->next[0] = 0;
    walk->folder = -1;
    *walk->path = 0;
    walk->is_ready = false;
}

bool walk_entry(struct walk *walk) {
    while (!walk->is_ready && walk->depth >= 0) {
        if (!enter_folder(walk))
            continue;
        walk->name = entries_next(&walk->names);
        if (!walk->name) {
            leave_folder(walk);
        } else if (walk->entries == WALK_MOST_ENTRIES) {
            note_error(walk, E2BIG);
            close_folder(walk);
            walk->depth = -1;
        } else if (look_at(walk)) {
            walk->is_ready = true;
        } else {
            walk->entries++;
            walk->next[walk->depth] = walk->names.next;
        }
    }
    return walk->is_ready;
}

void walk_take(struct walk *walk) {
    walk->is_ready = false;
    walk->entries++;
    walk->next[walk->depth] = walk->names.next;
    if (!S_ISDIR(walk->found.st_mode))
        return;
    if (walk->depth == WALK_MOST_DEPTH) {
        note_error(walk, E2BIG);
        return;
    }
    close_folder(walk);
    strcpy(walk->path, walk->entry);
    walk->next[++walk->depth] = 0;
}

void walk_pause(struct walk *walk) {
    close_folder(walk);
    walk->is_ready = false;
}
