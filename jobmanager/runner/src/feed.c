// The bytes of a run: its input, its output, its messages.
#define _GNU_SOURCE
#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <unistd.h>

#include "run.h"

#define MESSAGE_COST 4u          // of a message in the queue, beside its bytes
#define TAKEN_STEP 16384u        // so many bytes are reported at once
#define OUTPUT_HEAD 13u          // of an OUTPUT: stream, offset, length of the data
#define MOST_FROM_PROGRAM (UP_PAYLOAD - 12u)
#define LINGER_US 1000           // at most for each message

struct queue {                   // bytes that a pipe or socket does not take yet
    uint8_t bytes[QUEUE_SIZE * 2];
    size_t at, count;
};

static struct {                  // what a run will read, while it is sent
    uint32_t run;
    int fd, error;
    bool last;
} memory = {.fd = -1};

static struct queue input_queue, message_queue;

bool input_waits(void) { return input_queue.count; }
bool messages_wait(void) { return message_queue.count; }
int input_error(void) { return memory.run == run.number ? memory.error : 0; }
int input_file(void) { return memory.run == run.number ? memory.fd : -1; }

static void forget_memory(void) {
    shut(&memory.fd);
    memory.run = 0;
    memory.error = 0;
    memory.last = false;
}

void forget_input(void) {
    input_queue.at = input_queue.count = message_queue.at = message_queue.count = 0;
    if (memory.run <= run.number)
        forget_memory();
}

// What was sent for a pipe before its run.
bool feed_what_came_before(void) {
    struct stat found;
    if (run.input_kind != INPUT_PIPE || memory.run != run.number || memory.fd < 0)
        return true;
    if (fstat(memory.fd, &found) || found.st_size > (off_t)QUEUE_SIZE)
        return false;
    ssize_t got = pread(memory.fd, input_queue.bytes, QUEUE_SIZE, 0);
    input_queue.count = run.input_received = got > 0 ? (uint64_t)got : 0;
    run.input_last = memory.last;
    return true;
}

// Down

static void fill_memory(uint32_t number, uint64_t offset, bool last, const uint8_t *data, size_t length) {
    if (memory.run != number) {
        forget_memory();
        memory.run = number;
        int fd = memfd_create("input", MFD_CLOEXEC | MFD_ALLOW_SEALING);
        memory.error = fd < 0 ? errno : 0;
        memory.fd = fd < 0 ? -1 : high_fd(fd);
    }
    memory.last |= last;
    if (memory.fd < 0 || offset > INT64_MAX - length)
        return;
    while (length) {
        ssize_t wrote = pwrite(memory.fd, data, length, (off_t)offset);
        if (wrote <= 0) {
            memory.error = wrote < 0 ? errno : ENOSPC;
            return;
        }
        data += wrote;
        offset += (uint64_t)wrote;
        length -= (size_t)wrote;
    }
}

static void queue_append(struct queue *queue, const uint8_t *bytes, size_t count) {
    if (queue->at + queue->count + count > sizeof queue->bytes) {
        memmove(queue->bytes, queue->bytes + queue->at, queue->count);
        queue->at = 0;
    }
    memcpy(queue->bytes + queue->at + queue->count, bytes, count);
    queue->count += count;
}

static void queue_drop(struct queue *queue, size_t count) {
    queue->at += count;
    queue->count -= count;
    if (!queue->count)
        queue->at = 0;
}

static void feed_pipe(uint64_t offset, bool last, const uint8_t *data, size_t length) {
    if (offset > run.input_received)
        return fault("INPUT with a gap");
    uint64_t known = run.input_received - offset;
    if (known > length || run.input_last)
        return;
    if (offset + length - run.input_taken > QUEUE_SIZE)
        return fault("more INPUT than the run may have before it");
    run.input_received = offset + length;
    run.input_last = last;
    if (run.stdin_pipe >= 0 || run.phase == DUE)
        queue_append(&input_queue, data + known, length - known);
}

void run_input(struct in *in) {
    uint32_t number = in_u32(in), length;
    uint64_t offset = in_u64(in);
    bool last = in_flag(in);
    const uint8_t *data = in_text(in, &length);
    if (!in_done(in))
        return fault("INPUT makes no sense");
    if (number > run.number)
        return fill_memory(number, offset, last, data, length);
    if (number == run.number && run_is_on() && run.input_kind == INPUT_PIPE && run.phase <= GOING)
        feed_pipe(offset, last, data, length);
}

void run_message(struct in *in) {
    uint32_t number = in_u32(in), length;
    uint64_t message = in_u64(in);
    const uint8_t *data = in_text(in, &length);
    if (!in_done(in))
        return fault("MESSAGE makes no sense");
    if (number != run.number || run.phase == OFF || run.phase > GOING || message < run.messages_received)
        return;
    if (!run.channel || message > run.messages_received)
        return fault(run.channel ? "MESSAGE with a gap" : "MESSAGE to a run without a channel");
    if (length + MESSAGE_COST > sizeof message_queue.bytes - message_queue.count || length > QUEUE_SIZE)
        return fault("more messages than the run may have before it");
    run.messages_received++;
    uint8_t head[MESSAGE_COST];
    put_u32(head, length);
    queue_append(&message_queue, head, sizeof head);
    queue_append(&message_queue, data, length);
}

// Up, and what was taken

bool output_is_dropped(void) { return run.drops && run.output_bytes && run.reported >= run.output_bytes; }

bool read_output(int which, bool at_end) {
    struct pipe_out *out = &run.out[which];
    if (out->fd < 0)
        return false;
    up_begin(UP_OUTPUT, run.number);
    up_u8((uint8_t)(which + 1));
    up_u64(out->offset);
    ssize_t got = read(out->fd, up_text_begin(), UP_PAYLOAD - OUTPUT_HEAD);
    if (got == 0 || (got < 0 && errno != EAGAIN && errno != EINTR) || (got < 0 && at_end))
        shut(&out->fd);
    if (got <= 0)
        return false;
    uint64_t left = run.output_bytes ? run.output_bytes - run.reported : UINT64_MAX;
    size_t told = (uint64_t)got < left ? (size_t)got : (size_t)left;
    out->read += (uint64_t)got;
    if (told) {
        up_text_end(told);
        up_end();
        out->offset += told;
        run.reported += told;
    }
    if (told < (size_t)got && !run.drops)
        run_stop(BY_OUTPUT);
    return true;
}

// A program may send along a TCP socket that lingers. Who lets go of it last waits until the other end has read everything, or for
// as long as the program has said. The alarm's handler does nothing, but any signal ends that wait.
static void alarm_every(long us) {
    int error = errno;
    struct itimerval every = {{0, us}, {0, us}};
    setitimer(ITIMER_REAL, &every, NULL);
    errno = error;
}

void shut_socket(void) {
    alarm_every(LINGER_US);
    shut(&run.socket);
    alarm_every(0);
}

bool read_socket(void) {
    if (run.socket < 0)
        return false;
    union {
        struct cmsghdr head;
        char space[CMSG_SPACE(sizeof(struct ucred))];  // no room for descriptors that a program may send along
    } control;
    up_begin(UP_MESSAGE, run.number);
    up_u64(run.messages_up);
    struct iovec data = {up_text_begin(), MOST_FROM_PROGRAM};
    struct msghdr head = {.msg_iov = &data, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof control};
    alarm_every(LINGER_US);
    ssize_t got = recvmsg(run.socket, &head, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
    alarm_every(0);
    if ((got == 0 && !head.msg_controllen) || (got < 0 && errno != EAGAIN && errno != EINTR && errno != ECONNRESET)) {
        shut_socket();
        return false;
    }
    if (got < 0)
        return errno == ECONNRESET;  // it went away with messages that it had not read; what it wrote is still there
    up_text_end((size_t)got);
    up_end();
    run.messages_up++;
    return true;
}

static void taken(uint64_t bytes) {
    if (!run.untold_bytes && bytes)
        run.untold_ns = now_ns();
    run.untold_bytes += bytes;
}

void write_input(void) {
    while (input_queue.count && run.stdin_pipe >= 0) {
        ssize_t wrote = write(run.stdin_pipe, input_queue.bytes + input_queue.at, input_queue.count);
        if (wrote < 0 && (errno == EAGAIN || errno == EINTR))
            return;
        if (wrote < 0) {
            shut(&run.stdin_pipe);
            return;
        }
        run.input_taken += (uint64_t)wrote;
        taken((uint64_t)wrote);
        queue_drop(&input_queue, (size_t)wrote);
    }
    if (run.input_last)
        shut(&run.stdin_pipe);
}

void write_messages(void) {
    while (message_queue.count && run.socket >= 0) {
        const uint8_t *head = message_queue.bytes + message_queue.at;
        uint32_t length = get_u32(head);
        ssize_t wrote = send(run.socket, head + MESSAGE_COST, length, MSG_DONTWAIT | MSG_NOSIGNAL);
        if (wrote < 0 && (errno == EAGAIN || errno == EINTR))
            return;
        if (wrote < 0) {
            message_queue.count = 0;
            return;
        }
        run.messages_taken++;
        taken(length + MESSAGE_COST);
        queue_drop(&message_queue, length + MESSAGE_COST);
    }
}

bool report_taken(bool now) {
    if (!run.untold_bytes || !up_room(UP_MAX) || !(now || run.untold_bytes >= TAKEN_STEP || now_ns() - run.untold_ns >= TAKEN_NS))
        return false;
    run.untold_bytes = 0;
    up_begin(UP_TAKEN, run.number);
    up_u64(run.input_taken);
    up_u64(run.messages_taken);
    up_end();
    return true;
}
