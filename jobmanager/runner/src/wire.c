#define _GNU_SOURCE
#include "wire.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/uio.h>
#include <unistd.h>

// Numbers

uint32_t get_u32(const uint8_t *at) { return at[0] | (uint32_t)at[1] << 8 | (uint32_t)at[2] << 16 | (uint32_t)at[3] << 24; }
uint64_t get_u64(const uint8_t *at) { return get_u32(at) | (uint64_t)get_u32(at + 4) << 32; }

void put_u32(uint8_t *at, uint32_t value) {
    for (int i = 0; i < 4; i++)
        at[i] = (uint8_t)(value >> 8 * i);
}

void put_u64(uint8_t *at, uint64_t value) {
    put_u32(at, (uint32_t)value);
    put_u32(at + 4, (uint32_t)(value >> 32));
}

uint32_t crc32_of(uint32_t before, const uint8_t *bytes, size_t count) {
    static uint32_t table[256];
    if (!table[1])
        for (uint32_t i = 0; i < 256; i++) {
            uint32_t rest = i;
            for (int bit = 0; bit < 8; bit++)
                rest = rest >> 1 ^ (rest & 1 ? 0xEDB88320u : 0);
            table[i] = rest;
        }
    uint32_t rest = ~before;
    for (size_t i = 0; i < count; i++)
        rest = rest >> 8 ^ table[(rest ^ bytes[i]) & 255];
    return ~rest;
}

// A payload that is read

static const uint8_t *take(struct in *in, size_t count) {
    static const uint8_t nothing[8];
    if (in->bad || (size_t)(in->end - in->at) < count) {
        in->bad = true;
        return nothing;
    }
    in->at += count;
    return in->at - count;
}

uint8_t in_u8(struct in *in) { return *take(in, 1); }
uint32_t in_u32(struct in *in) { return get_u32(take(in, 4)); }
uint64_t in_u64(struct in *in) { return get_u64(take(in, 8)); }
int64_t in_i64(struct in *in) { return (int64_t)in_u64(in); }

uint16_t in_u16(struct in *in) {
    const uint8_t *at = take(in, 2);
    return (uint16_t)(at[0] | at[1] << 8);
}

uint8_t in_choice(struct in *in, uint8_t most) {
    uint8_t value = in_u8(in);
    in->bad |= value > most;
    return in->bad ? 0 : value;
}

bool in_flag(struct in *in) { return in_choice(in, 1); }

const uint8_t *in_text(struct in *in, uint32_t *length) {
    *length = in_u32(in);
    const uint8_t *text = take(in, *length);
    if (in->bad)
        *length = 0;
    return text;
}

void in_name(struct in *in, char *name, size_t size) {
    uint32_t length;
    const uint8_t *text = in_text(in, &length);
    if (length >= size || memchr(text, 0, length)) {
        in->bad = true;
        length = 0;
    }
    memcpy(name, text, length);
    name[length] = 0;
}

uint32_t in_count(struct in *in, size_t least) {
    uint32_t count = in_u32(in);
    in->bad |= (uint64_t)count * least > (uint64_t)(in->end - in->at);
    return in->bad ? 0 : count;
}

bool in_done(const struct in *in) { return !in->bad && in->at == in->end; }

// Down

void give_back(void *memory, size_t size) {
    size_t page = (size_t)sysconf(_SC_PAGESIZE), before = -(uintptr_t)memory % page;
    if (size > before)
        madvise((uint8_t *)memory + before, (size - before) / page * page, MADV_DONTNEED);
}

static const uint8_t frame_magic[4] = {'J', 'M', 'D', '1'};

static struct {
    uint8_t bytes[FRAME_SIZE];  // what came and is no whole frame yet
    size_t at, count;
    uint64_t skipped, session;
    bool begun, heard;
    uint8_t type;               // of the message whose pieces are coming; 0: none
    uint32_t length;
    uint8_t message[DOWN_SIZE];
} down;

uint64_t down_skipped(void) { return down.skipped; }

bool down_heard(void) {
    bool heard = down.heard;
    down.heard = false;
    return heard;
}

bool down_read(int fd, bool *ended) {
    memmove(down.bytes, down.bytes + down.at, down.count);
    down.at = 0;
    ssize_t got = read(fd, down.bytes + down.count, FRAME_SIZE - down.count);
    *ended = got == 0 || (got < 0 && errno != EAGAIN && errno != EINTR);
    if (got <= 0)
        return false;
    down.count += (size_t)got;
    return true;
}

static void skip(size_t count) {
    down.skipped += count;
    down.at += count;
    down.count -= count;
}

// Whether a whole header is at the front.
static bool find_magic(void) {
    while (down.count) {
        const uint8_t *at = down.bytes + down.at, *found = memchr(at, frame_magic[0], down.count);
        skip(found ? (size_t)(found - at) : down.count);
        size_t known = down.count < sizeof frame_magic ? down.count : sizeof frame_magic;
        if (!memcmp(down.bytes + down.at, frame_magic, known))
            return down.count >= FRAME_HEAD;
        skip(1);
    }
    return false;
}

// The next frame, which then counts as read; NULL where none is whole.
static const uint8_t *next_frame(uint32_t *length) {
    while (find_magic()) {
        const uint8_t *frame = down.bytes + down.at;
        *length = get_u32(frame + 16);
        if (*length > FRAME_PAYLOAD) {
            skip(1);
            continue;
        }
        if (down.count < FRAME_HEAD + *length)
            return NULL;
        if (crc32_of(crc32_of(0, frame, 20), frame + FRAME_HEAD, *length) == get_u32(frame + 20)) {
            down.at += FRAME_HEAD + *length;
            down.count -= FRAME_HEAD + *length;
            return frame;
        }
        skip(1);
    }
    return NULL;
}

static void take_frame(const uint8_t *frame, uint32_t length, down_handler *obey) {
    uint64_t session = get_u64(frame + 4);
    uint8_t type = frame[12], flags = frame[13];
    if (type == DOWN_HELLO && (!down.begun || session != down.session)) {
        down.begun = true;
        down.session = session;
        down.type = 0;
        down.length = 0;
    }
    if (!down.begun || session != down.session)
        return;
    down.heard = true;
    if (flags > 1 || frame[14] || frame[15])
        return fault("a frame with flags or reserved bytes that do not exist");
    if (!type || (down.type && down.type != type))
        return fault("a frame came between those of a message");
    if (length > DOWN_SIZE - down.length)
        return fault("a message is too long");
    memcpy(down.message + down.length, frame + FRAME_HEAD, length);
    down.length += length;
    down.type = flags ? type : 0;
    if (flags)
        return;
    struct in in = {down.message, down.message + down.length, false};
    down.length = 0;
    obey(type, session, &in);
    if (in.end - down.message > (ptrdiff_t)FRAME_SIZE)  // memory of a long message is given back
        give_back(down.message + FRAME_SIZE, DOWN_SIZE - FRAME_SIZE);
}

void down_parse(down_handler *obey) {
    uint32_t length;
    const uint8_t *frame;
    while ((frame = next_frame(&length)))
        take_frame(frame, length, obey);
}

// Up

#define LITTLE 4096u                    // bytes, that may wait for more
static const uint8_t packet_magic[4] = {'J', 'M', 'U', '1'};
enum packet_kind { PACKET_STATUS = 1, PACKET_STREAM };

static uint8_t *window;        // the byte at an offset is at the offset modulo its size
static struct {
    uint64_t from, to, sent;   // offsets: kept from, so far, sent to the session
    uint64_t session;
    bool begun, streams, status_due;
} stream;

static struct {                // the packet that is being sent
    uint8_t head[PACKET_HEAD];
    const uint8_t *payload;    // of a STATUS; NULL: it is in the window
    uint64_t offset;
    size_t length, sent, size;   // of the payload; of the whole
} packet;

static uint8_t message[UP_MAX];  // what is being built
static size_t message_length;
static uint8_t status[PATH_SIZE + 256];

void window_init(void) {
    window = mmap(NULL, WINDOW_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (window == MAP_FAILED)
        _exit(122);
}

uint64_t window_from(void) { return stream.from; }
uint64_t window_to(void) { return stream.to; }
bool up_room(size_t size) { return stream.to - stream.from + size + WINDOW_RESERVE <= WINDOW_SIZE; }
size_t up_left(void) { return UP_MAX - message_length; }

void up_begin(uint8_t type, uint32_t run) {
    memset(message, 0, UP_HEAD);
    message[0] = type;
    put_u32(message + 4, run);
    message_length = UP_HEAD;
}

void up_bytes(const void *bytes, size_t count) {
    if (count > up_left())
        __builtin_trap();  // a mistake of ours: the callers ask up_left() where something can be long
    memcpy(message + message_length, bytes, count);
    message_length += count;
}

void up_u8(uint8_t value) { up_bytes(&value, 1); }

void up_u16(uint16_t value) {
    up_u8((uint8_t)value);
    up_u8((uint8_t)(value >> 8));
}

void up_u32(uint32_t value) {
    uint8_t bytes[4];
    put_u32(bytes, value);
    up_bytes(bytes, sizeof bytes);
}

void up_u64(uint64_t value) {
    uint8_t bytes[8];
    put_u64(bytes, value);
    up_bytes(bytes, sizeof bytes);
}

void up_i64(int64_t value) { up_u64((uint64_t)value); }

void up_text(const void *text, size_t length) {
    up_u32((uint32_t)length);
    up_bytes(text, length);
}

uint8_t *up_text_begin(void) { return message + message_length + 4; }

void up_text_end(size_t length) {
    put_u32(message + message_length, (uint32_t)length);
    message_length += 4 + length;
}

static void append(const uint8_t *bytes, size_t count) {
    size_t at = stream.to % WINDOW_SIZE, first = WINDOW_SIZE - at < count ? WINDOW_SIZE - at : count;
    memcpy(window + at, bytes, first);
    memcpy(window, bytes + first, count - first);
    stream.to += count;
}

void up_end(void) {
    if (message_length > WINDOW_SIZE - (stream.to - stream.from))
        __builtin_trap();  // the caller did not ask for room
    put_u32(message + 8, (uint32_t)(message_length - UP_HEAD));
    append(message, message_length);
}

bool window_acknowledge(uint64_t read_to) {
    if (read_to > stream.to)
        return false;
    if (read_to > stream.from)
        stream.from = read_to;
    if (stream.sent < stream.from)
        stream.sent = stream.from;
    return true;
}

void window_resume(uint64_t session, uint64_t read_from) {
    stream.session = session;
    stream.begun = stream.status_due = true;
    stream.streams = stream.from <= read_from && read_from <= stream.to;
    stream.sent = stream.streams ? read_from : stream.to;
}

static void packet_begin(enum packet_kind kind, uint64_t offset, size_t length) {
    memset(packet.head, 0, sizeof packet.head);
    memcpy(packet.head, packet_magic, sizeof packet_magic);
    put_u64(packet.head + 4, stream.session);
    packet.head[12] = (uint8_t)kind;
    put_u64(packet.head + 16, offset);
    put_u32(packet.head + 24, (uint32_t)length);
    put_u32(packet.head + 28, crc32_of(0, packet.head, 28));
    packet.payload = kind == PACKET_STATUS ? status : NULL;
    packet.offset = offset;
    packet.length = length;
    packet.size = PACKET_HEAD + length;
    packet.sent = 0;
}

static bool next_packet(status_writer *write_status) {
    if (!stream.begun)
        return false;
    if (stream.status_due) {
        up_begin(0, 0);
        write_status();
        size_t length = message_length - UP_HEAD;
        memcpy(status, message + UP_HEAD, length);
        stream.status_due = false;
        packet_begin(PACKET_STATUS, stream.to, length);
        return true;
    }
    uint64_t due = stream.streams ? stream.to - stream.sent : 0;
    if (!due)
        return false;
    packet_begin(PACKET_STREAM, stream.sent, due < PACKET_PAYLOAD ? due : PACKET_PAYLOAD);
    stream.sent += packet.length;
    return true;
}

bool window_can_wait(void) { return packet.sent == packet.size && !stream.status_due && stream.to - stream.sent < LITTLE; }

bool window_unsent(void) { return packet.sent < packet.size || stream.status_due || (stream.streams && stream.sent < stream.to); }

static ssize_t write_packet(int fd) {
    struct iovec parts[3];
    int count = 0;
    size_t gone = packet.sent;
    if (gone < PACKET_HEAD)
        parts[count++] = (struct iovec){packet.head + gone, PACKET_HEAD - gone};
    gone = gone < PACKET_HEAD ? 0 : gone - PACKET_HEAD;
    size_t left = packet.length - gone;
    if (packet.payload) {
        parts[count++] = (struct iovec){(void *)(packet.payload + gone), left};
        return writev(fd, parts, count);
    }
    size_t at = (packet.offset + gone) % WINDOW_SIZE, first = WINDOW_SIZE - at < left ? WINDOW_SIZE - at : left;
    parts[count++] = (struct iovec){window + at, first};
    if (first < left)
        parts[count++] = (struct iovec){window, left - first};
    return writev(fd, parts, count);
}

// A packet that was begun is sent to its end, whatever session comes: the reader of the new one passes it over.
enum sent window_send(int fd, status_writer *write_status) {
    if (packet.sent == packet.size && !next_packet(write_status))
        return SENT_NOTHING;
    ssize_t wrote = write_packet(fd);
    if (wrote > 0) {
        packet.sent += (size_t)wrote;
        return SENT_SOME;
    }
    return wrote < 0 && errno == EAGAIN ? SENT_BLOCKED : SENT_CLOSED;
}
