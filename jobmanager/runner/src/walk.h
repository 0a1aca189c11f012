// All that is below a folder, one entry after the other: folders before what is in them.
#ifndef WALK_H
#define WALK_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/stat.h>

#include "tree.h"

#define WALK_MOST_ENTRIES 100000u
#define WALK_MOST_DEPTH 64

struct walk {
    int error;                                // of several the first, but that something was left out (E2BIG) before all others
    uint32_t entries;                         // that were seen, told or not
    int folder;                               // that the entry is in; -1: closed
    const char *name;                         // of the entry in that folder
    char entry[PATH_SIZE];                    // its path, below `base`
    struct stat found;                        // what it is

    char base[PATH_SIZE], path[PATH_SIZE];    // `path`: of the folder that is read, below `base`
    int depth;                                // -1: that was all
    int64_t next[WALK_MOST_DEPTH + 1];        // where to go on in each folder on the way
    struct entries names;
    bool is_ready;                            // there is an entry that was not taken
};

void walk_begin(struct walk *walk);           // `base` is set
bool walk_entry(struct walk *walk);           // whether there is one more: the same one until it is taken
void walk_take(struct walk *walk);            // go on behind it, and into it where it is a folder
void walk_pause(struct walk *walk);           // close the folder: nothing is held until the next call

#endif
