/* Name-based UUIDs (version 5), as the driver makes them for MIG devices. */
#ifndef SIMGPU_UUID_H
#define SIMGPU_UUID_H

#include <stddef.h>

/* Writes the 36 characters of a UUID and a terminating NUL. */
void uuid_of_name(const char *name, char *text, size_t size);

#endif
