// Files that come and go between runs, and those that a run brings at its end.
#ifndef FILES_H
#define FILES_H

#include <stdbool.h>
#include <stdint.h>

#include "runner.h"

struct refusal {                 // what a PUT, REMOVE or CLEAR has failed with, for the next RUN
    uint8_t why;
    uint32_t error;
    char what[PATH_SIZE];
};

void files_init(void);           // notes the runner's own limits and priorities, which CLEAR compares
void files_put(struct in *in);
void files_remove(struct in *in);
void files_list(struct in *in);
void files_fetch(struct in *in);
void files_clear(struct in *in);
void files_keep(struct in *in);
const char *files_put_back(void);   // what was kept last; why it cannot be, or NULL
uint32_t files_check_list(struct in *in);   // reads a list of files and of how many bytes each may have; how many files, 0 if it is bad
void files_bring_begin(uint32_t run, struct in list);   // the list of a RUN, checked; the PIECEs come by files_step
void files_give_up(void);        // the rest of the answer that is under way never comes
bool files_busy(void);           // an answer is not whole yet
bool files_clearing(void);       // it is that to a CLEAR, which is not done yet
bool files_step(void);           // at most one message of it; there is room; whether more is to come
const struct refusal *files_refusal(void);              // NULL: nothing has failed
void files_forget_refusal(void);
void files_remember(enum why why, int error, const char *what);   // the first one counts


// Between the parts: list.c, fetch.c and clear.c each answer one kind of request.
typedef bool files_answerer(void);   // as files_step
void files_answer(files_answerer *answerer);
bool files_answers(files_answerer *answerer);   // it is the one that is under way
void files_close_piece(void);        // the file that is being sent
void files_close_put(void);          // a file whose last piece never came, for CLEAR: it takes space after it was removed

#endif
