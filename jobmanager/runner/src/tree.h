// Folders and files of a hostile tree: no link is followed, nothing recurses, and few descriptors are open at any one time.
#ifndef TREE_H
#define TREE_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "wire.h"

#define TREE_LAST_NAME 256u      // of a path's last part, with its NUL
#define TREE_MOST_NS (30 * NS_PER_S)  // for removing, where somebody else goes on filling what is emptied

// The folder that a path's last part is in; -1 with errno. `make`: folders that are missing on the way are made.
int tree_open_parent(const char *path, char *last, bool make);
int tree_open_folder(int parent, const char *name);              // opened also where its owner has closed it; -1 with errno
int tree_open_file(int parent, const char *name, int *error);    // a regular one, for reading; -1

// All entries of a folder, one after the other.
struct entries {
    int folder;
    _Alignas(8) uint8_t bytes[8192];
    size_t at, count;
    int64_t next;                // where the entry after the last one is
};
void entries_begin(struct entries *entries, int folder, int64_t from);
const char *entries_next(struct entries *entries);               // NULL: that was all; "." and ".." are left out

bool tree_remove(int parent, const char *name);                  // a file, or a folder with all that is in it; whether it is gone
bool tree_empty(int folder, unsigned *mounts);                   // whether it is empty now, but for what is mounted in it (NULL: even so)

#endif
