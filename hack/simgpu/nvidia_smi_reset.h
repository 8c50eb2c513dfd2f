/* nvidia-smi --gpu-reset: the one deed that NVML does not offer. */
#ifndef SIMGPU_NVIDIA_SMI_RESET_H
#define SIMGPU_NVIDIA_SMI_RESET_H

/* A list of GPUs, or NULL for all. Returns the exit status. */
int reset_gpus(const char *text);

#endif
