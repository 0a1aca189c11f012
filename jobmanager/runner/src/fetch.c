// FETCH, and what a run brings at its end: the bytes of one file after the other, a piece at a time.
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "files.h"
#include "runner.h"
#include "tree.h"

#define PIECE_SIZE 53u                        // of a PIECE, beside its path and data
#define FETCH_SIZE 32768u                     // the most of the list of a FETCH

static struct {
    uint32_t run, request;
    char path[PATH_SIZE];
    uint64_t most, sent;
    int file, error;                          // file: -1: not opened yet, or it cannot be
    bool begun;
    struct stat found;
} piece = {.file = -1};

static struct {                               // the files that are still to come
    struct in left;
    uint32_t count;
} wanted;

static uint8_t asked[FETCH_SIZE];             // the list of a FETCH; that of a RUN is kept there

static void open_piece(void) {
    char name[TREE_LAST_NAME];
    piece.begun = true;
    piece.sent = 0;
    memset(&piece.found, 0, sizeof piece.found);
    int parent = tree_open_parent(piece.path, name, false);
    piece.error = parent < 0 ? errno : 0;
    if (parent < 0)
        return;
    if (fstatat(parent, name, &piece.found, AT_SYMLINK_NOFOLLOW))
        memset(&piece.found, 0, sizeof piece.found);
    piece.file = tree_open_file(parent, name, &piece.error);
    close(parent);
    if (!piece.error && (uint64_t)piece.found.st_size > piece.most)
        piece.error = EFBIG;
}

void files_close_piece(void) {
    if (piece.file >= 0)
        close(piece.file);
    piece.file = -1;
    piece.begun = false;
}

// Whether it was the last one of its file.
static bool send_piece(void) {
    static uint8_t data[UP_PAYLOAD];
    if (!piece.begun)
        open_piece();
    uint64_t left = piece.error ? 0 : (uint64_t)piece.found.st_size - piece.sent;
    size_t room = UP_PAYLOAD - PIECE_SIZE - strlen(piece.path), due = left < room ? (size_t)left : room;
    ssize_t got = due ? pread(piece.file, data, due, (off_t)piece.sent) : 0;
    if (got < 0)
        piece.error = errno;
    size_t length = got > 0 ? (size_t)got : 0;
    bool last = !length || length == left;    // a file that has become shorter ends where it ends
    up_begin(UP_PIECE, piece.run);
    up_u32(piece.request);
    up_text(piece.path, strlen(piece.path));
    up_u32(piece.found.st_mode & 07777);
    up_i64(piece.found.st_mtime);
    up_u64((uint64_t)piece.found.st_size);
    up_u32((uint32_t)piece.error);
    up_u64(piece.sent);
    up_u8(last);
    up_text(data, length);
    up_end();
    piece.sent += length;
    if (last)
        files_close_piece();
    return last;
}

static bool next_file(void) {
    if (!wanted.count)
        return false;
    wanted.count--;
    in_name(&wanted.left, piece.path, sizeof piece.path);
    piece.most = in_u32(&wanted.left);
    return true;
}

static bool step_piece(void) { return !send_piece() || next_file(); }

uint32_t files_check_list(struct in *in) {
    static char path[PATH_SIZE];
    uint32_t count = in_count(in, 8);
    for (uint32_t i = 0; i < count && !in->bad; i++) {
        in_name(in, path, sizeof path);
        in_u32(in);
    }
    return in->bad ? 0 : count;
}

static void begin(uint32_t run, uint32_t request, struct in list) {
    piece.run = run;
    piece.request = request;
    wanted.left = list;
    wanted.count = in_count(&wanted.left, 8);
    if (next_file())
        files_answer(step_piece);
}

void files_fetch(struct in *in) {
    uint32_t request = in_u32(in);
    size_t size = (size_t)(in->end - in->at);
    const uint8_t *list = in->at;
    if (!files_check_list(in) || !in_done(in) || size > sizeof asked)
        return fault("FETCH makes no sense");
    memcpy(asked, list, size);
    begin(request, request, (struct in){asked, asked + size, false});
}

void files_bring_begin(uint32_t run, struct in list) { begin(run, 0, list); }
