// Not there yet: each request is taken and nothing is done.
#include "files.h"

void files_put(struct in *in) { (void)in; }
void files_remove(struct in *in) { (void)in; }
void files_list(struct in *in) { (void)in; }
void files_fetch(struct in *in) { (void)in; }
void files_clear(struct in *in) { (void)in; }

void files_bring_begin(uint32_t run, struct in list) {
    (void)run;
    (void)list;
}

bool files_busy(void) { return false; }
bool files_step(void) { return false; }
const struct refusal *files_refusal(void) { return NULL; }
void files_forget_refusal(void) {}
