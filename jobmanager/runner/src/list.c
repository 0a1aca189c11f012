// LIST: all that is in a folder. The folder that is read is opened anew for each message, so nothing is held while the other end is slow.
#include <string.h>

#include "files.h"
#include "walk.h"

#define ENTRY_SIZE 25u                        // of an entry, beside its path
#define ENTRIES_SIZE (UP_PAYLOAD - 13u)       // of all entries in a message

static uint32_t request;
static struct walk list;

static struct {                               // entries of one message
    uint8_t bytes[ENTRIES_SIZE];
    size_t size;
    uint32_t count;
} page;

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

// Whether that was all; else the message is full.
static bool fill_page(void) {
    while (walk_entry(&list)) {
        size_t length = strlen(list.entry);
        if (length + ENTRY_SIZE > ENTRIES_SIZE - page.size)
            return false;
        add_entry(list.entry, length, &list.found);
        walk_take(&list);
    }
    return true;
}

static bool step_list(void) {
    page.size = page.count = 0;
    bool last = fill_page();
    walk_pause(&list);
    up_begin(UP_ENTRIES, request);
    up_u32(request);
    up_u32(last ? (uint32_t)list.error : 0);
    up_u8(last);
    up_u32(page.count);
    up_bytes(page.bytes, page.size);
    up_end();
    return !last;
}

void files_list(struct in *in) {
    request = in_u32(in);
    in_name(in, list.base, sizeof list.base);
    if (!in_done(in))
        return fault("LIST makes no sense");
    walk_begin(&list);
    files_answer(step_list);
}
