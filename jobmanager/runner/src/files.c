// The answer that is under way: at most one.
#include "files.h"

#include <stddef.h>

static files_answerer *step;     // NULL: none

void files_answer(files_answerer *answerer) { step = answerer; }
bool files_busy(void) { return step; }
bool files_answers(files_answerer *answerer) { return step == answerer; }

void files_give_up(void) {
    files_close_piece();
    step = NULL;
}

bool files_step(void) {
    bool more = step && step();
    if (!more)
        step = NULL;
    return more;
}
