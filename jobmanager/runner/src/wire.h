// Both directions of the channel: frames that come, the stream of messages that goes. docs/runner.md is the contract.
#ifndef WIRE_H
#define WIRE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define PATH_SIZE 4096u                         // with its NUL, as in the kernel
#define FRAME_SIZE 65536u                       // the most of one frame
#define FRAME_HEAD 24u
#define FRAME_PAYLOAD (FRAME_SIZE - FRAME_HEAD)
#define DOWN_SIZE (1u << 20)                    // the most of one message down
#define AHEAD_SIZE (1u << 16)                   // the most that is kept for the next run while one is going on
#define WINDOW_SIZE (1u << 20)                  // what is kept until it is acknowledged
#define WINDOW_RESERVE 8192u                    // of it, for a FAULT
#define UP_HEAD 12u
#define UP_PAYLOAD 65536u                       // the most of one message up
#define UP_MAX (UP_HEAD + UP_PAYLOAD)
#define PACKET_HEAD 32u
#define PACKET_PAYLOAD 65536u

enum down_type {
    DOWN_HELLO = 1, DOWN_ACK, DOWN_PUT, DOWN_REMOVE, DOWN_INPUT, DOWN_RUN, DOWN_MESSAGE, DOWN_KILL, DOWN_LIST, DOWN_FETCH, DOWN_CLEAR, DOWN_LEAVE,
    DOWN_KEEP
};

enum up_type {
    UP_STARTED = 1, UP_REFUSED, UP_OUTPUT, UP_MESSAGE, UP_TAKEN, UP_ENDED, UP_PIECE, UP_ENTRIES, UP_CLEARED, UP_FAULT,
    UP_KEPT
};

// A payload, read from the front. After the first thing that makes no sense it is bad, and every value is 0 or empty.
struct in {
    const uint8_t *at, *end;
    bool bad;
};

uint8_t in_u8(struct in *in);
uint16_t in_u16(struct in *in);
uint32_t in_u32(struct in *in);
uint64_t in_u64(struct in *in);
int64_t in_i64(struct in *in);
bool in_flag(struct in *in);                              // bad unless it is 0 or 1
uint8_t in_choice(struct in *in, uint8_t most);           // bad above `most`
const uint8_t *in_text(struct in *in, uint32_t *length);  // points into the payload; has no NUL at its end
void in_name(struct in *in, char *name, size_t size);     // copied, with a NUL; bad if one is inside or it is too long
uint32_t in_count(struct in *in, size_t least);           // of a list whose items have at least so many bytes
bool in_done(const struct in *in);                        // all was read, and all made sense

uint32_t crc32_of(uint32_t before, const uint8_t *bytes, size_t count);
void put_u32(uint8_t *at, uint32_t value);
void put_u64(uint8_t *at, uint64_t value);
uint32_t get_u32(const uint8_t *at);
uint64_t get_u64(const uint8_t *at);

void give_back(void *memory, size_t size);   // its whole pages; they are zeros afterwards

// Down: bytes come, whole messages go to `obey`; it is called for messages of the latest session only.
typedef void down_handler(uint8_t type, uint64_t session, struct in *in);
bool down_read(int fd, bool *ended);      // reads once; false: nothing was there. `ended`: there was the end of the file
void down_parse(down_handler *obey);      // all messages that are complete
uint64_t down_skipped(void);              // bytes that were no frame
bool down_heard(void);                    // whether a frame of the session has come since the last call
void fault(const char *text);             // the session sends nonsense: see main.c

// Up: one message at a time. The caller has asked for room before: UP_MAX is always enough.
bool up_room(size_t size);
void up_begin(uint8_t type, uint32_t run);
void up_u8(uint8_t value);
void up_u16(uint16_t value);
void up_u32(uint32_t value);
void up_u64(uint64_t value);
void up_i64(int64_t value);
void up_text(const void *text, size_t length);
void up_bytes(const void *bytes, size_t count);   // without a length before
size_t up_left(void);                             // bytes that the message may still have
void up_end(void);

// A text that is as long as what can be read: the reader fills up_space(), and then tells how much there was.
uint8_t *up_text_begin(void);
void up_text_end(size_t length);

void window_init(void);
uint64_t window_from(void);               // offset of the first byte that is kept
uint64_t window_to(void);                 // how many bytes the stream has
bool window_acknowledge(uint64_t read_to);
void window_resume(uint64_t session, uint64_t read_from);
typedef void status_writer(void);         // writes the payload of a STATUS by up_u8 and so on
enum sent { SENT_NOTHING, SENT_SOME, SENT_BLOCKED, SENT_CLOSED };
enum sent window_send(int fd, status_writer *status);
bool window_unsent(void);
bool window_can_wait(void);               // what is unsent is little, and no STATUS is due

#endif
