/* nvml.h with its symbols exported; everything else in the library stays hidden. Included from the PyPI package
 * nvidia-nvml-dev at build time, so that the compiler checks every struct and signature. */
#ifndef SIMGPU_NVML_API_H
#define SIMGPU_NVML_API_H

#define NVML_NO_UNVERSIONED_FUNC_DEFS
#pragma GCC visibility push(default)
#include <nvml.h>
#pragma GCC visibility pop

#endif
