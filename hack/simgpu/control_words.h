/* The words of a `simgpu` command line and what they name. */
#ifndef SIMGPU_CONTROL_WORDS_H
#define SIMGPU_CONTROL_WORDS_H

#include "mig_devices.h"

struct words {
    int count;
    char **values;
};

enum { EXIT_DONE = 0, EXIT_REFUSED = 1, EXIT_USAGE = 2 };

/* The word after `name`, or NULL. */
const char *option(const struct words *words, const char *name);
bool has_flag(const struct words *words, const char *name);
/* A whole number in 0..4294967295; ends the program with a message when it is none. */
unsigned int number(const char *text, const char *what);
__attribute__((format(printf, 1, 2))) int refuse(const char *format, ...);
__attribute__((format(printf, 1, 2))) int misuse(const char *format, ...);

/* A GPU or MIG UUID; `compute` and `instance` are NULL for a GPU. */
bool find_device(const char *uuid, struct mig_device *found);
/* End the program with a message when the option is missing or names nothing. */
struct gpu *required_gpu(const struct words *words);
struct mig_device required_device(const struct words *words);

extern const char USAGE[];

#endif
