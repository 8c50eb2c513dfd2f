/* nvidia-smi mig ... */
#ifndef SIMGPU_NVIDIA_SMI_MIG_H
#define SIMGPU_NVIDIA_SMI_MIG_H

int run_mig(int count, char **words);

#endif
