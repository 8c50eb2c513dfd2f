/* The simulated node: one file, mapped by every process that takes part.
 *
 * Note [A state that cannot tear]
 * A process may be killed between any two stores. So whatever exists is announced by one aligned store made last (a
 * non-zero serial, pid or count) and disappears by one store of zero made first; everything else in the slot is
 * meaningless while that word is zero. flock is let go by the kernel when its holder dies.
 */
#ifndef SIMGPU_STATE_H
#define SIMGPU_STATE_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "geometry.h"

enum {
    MAX_GPUS = 16,
    MAX_GPU_INSTANCES = 16,
    MAX_COMPUTE_INSTANCES = 8,
    MAX_PROCESSES = 256,
    MAX_SESSIONS = 256,
    MAX_FAULTS = 64,
    MAX_COUNTERS = 1024,
    MAX_LOG = 4096,
    FUNCTION_NAME = 72,
    UUID_TEXT = 48,
    MAX_EVENTS = 256,
};

/* Ratios, then rates in MiB/s from UTIL_PCIE_TX on. */
enum utilization_kind {
    UTIL_GRAPHICS,
    UTIL_SM,
    UTIL_OCCUPANCY,
    UTIL_TENSOR,
    UTIL_DRAM,
    UTIL_INTEGER,
    UTIL_DFMA,
    UTIL_HMMA,
    UTIL_DMMA,
    UTIL_IMMA,
    UTIL_FP64,
    UTIL_FP32,
    UTIL_FP16,
    UTIL_PCIE_TX,
    UTIL_PCIE_RX,
    UTIL_NVLINK_RX,
    UTIL_NVLINK_TX,
    UTIL_C2C_TX,
    UTIL_C2C_RX,
    UTILIZATIONS,
};

struct utilization_reading {
    double ratio[UTILIZATIONS];        /* 0..1 (or MiB/s), in force since `since_ns` */
    double busy_seconds[UTILIZATIONS]; /* its integral up to `since_ns` */
    int64_t since_ns;                  /* CLOCK_MONOTONIC */
};

/* Two readings, of which `current` names the one in force: a change is written to the other one first. */
struct utilization {
    struct utilization_reading readings[2];
    uint32_t current;
};

struct compute_instance {
    uint64_t serial; /* 0: free slot */
    uint32_t id;
    uint32_t profile; /* index into gpu_profile.compute */
    uint32_t start;   /* compute slices */
    uint32_t size;
};

struct gpu_instance {
    uint64_t serial; /* 0: free slot */
    uint32_t id;
    uint32_t profile; /* index into gpu_model.profiles */
    uint32_t start;   /* memory slices */
    uint32_t size;
    struct utilization utilization;
    struct compute_instance compute[MAX_COMPUTE_INSTANCES];
};

struct gpu {
    char model[40];
    char uuid[UUID_TEXT];
    char board_serial[24];
    uint32_t minor;
    uint32_t pci_bus;
    uint32_t mig_current;
    uint32_t mig_pending;
    uint32_t lost;
    uint32_t virtualization; /* enum virtualization */
    struct utilization utilization;
    struct gpu_instance instances[MAX_GPU_INSTANCES];
};

/* Identifies a process even when its pid is used again. */
struct process_identity {
    int32_t pid; /* 0: free slot */
    uint64_t started; /* clock ticks after boot, from /proc/PID/stat */
};

struct gpu_process {
    struct process_identity identity;
    uint32_t gpu;
    uint64_t gpu_instance;     /* serial; 0: the whole GPU */
    uint64_t compute_instance; /* serial; 0: the whole GPU */
    uint64_t memory_bytes;
};

#define EVERY_FUNCTION "*"

enum death { DEATH_NONE, DEATH_BEFORE, DEATH_AFTER };

struct fault {
    uint64_t serial; /* 0: free slot */
    char function[FUNCTION_NAME];
    uint32_t after; /* calls let through first */
    uint32_t count; /* calls hit, then no more; 0: all */
    uint32_t seen;
    int32_t code; /* nvmlReturn_t; 0: the call goes on */
    uint32_t delay_ms;
    uint32_t hang;
    uint32_t death; /* enum death */
    uint32_t latency; /* set by `simgpu latency`, listed apart */
};

/* Who may change MIG mode, and change and list instances: everyone, root, nobody. */
enum permission { PERMIT_ALL, PERMIT_ROOT, PERMIT_NOBODY };

/* In a guest a mode change that needs a reset waits for the guest's reboot; the driver says so by RESET_REQUIRED under
 * pass-through and by NOT_SUPPORTED in some other machines. A vGPU guest cannot change the mode at all. */
enum virtualization { BARE_METAL, PASSTHROUGH, VIRTUAL_MACHINE, VGPU_GUEST };

#define NO_INSTANCE_ID 0xFFFFFFFFu

enum event_kind { EVENT_MIG_CHANGE, EVENT_XID, EVENT_KINDS };

struct event {
    uint32_t gpu;
    uint32_t kind;         /* enum event_kind */
    uint32_t number;       /* of the Xid */
    uint32_t gpu_instance; /* ids, or NO_INSTANCE_ID */
    uint32_t compute_instance;
};

/* Whether the GPUs that have NVLink are joined by NVSwitches, and whether Fabric Manager runs on the node. */
enum nvswitch { NVSWITCH_NONE, NVSWITCH_MANAGED, NVSWITCH_UNMANAGED };

struct counter {
    char function[FUNCTION_NAME];
    uint64_t calls;
};

enum { NO_RESULT = -1, NO_VALUE = -1 };

struct log_entry {
    uint64_t seq;
    int64_t begun_ns;     /* CLOCK_MONOTONIC, as the next: when the call got its turn */
    int64_t monotonic_ns; /* when it took effect, or was refused */
    int64_t ended_ns;     /* 0 while it has no result */
    int64_t wall_ns;
    int32_t pid;
    char function[FUNCTION_NAME];
    char gpu[UUID_TEXT];
    char profile[40];
    int32_t mode;
    int32_t start;
    int32_t size;
    int32_t gi;
    int32_t ci;
    int32_t result; /* nvmlReturn_t; NO_RESULT: the caller died in the call */
};

struct state {
    char magic[8];
    uint64_t layout; /* size of this struct: another build's file is refused */
    char boot_id[UUID_TEXT];
    uint32_t gpu_count;
    uint32_t fresh_mig_uuids; /* a new MIG UUID for each creation, instead of one per (GPU, GI id, CI id) */
    uint32_t driver_branch;
    uint32_t permission;         /* enum permission */
    uint32_t nvswitch;           /* enum nvswitch */
    uint32_t one_call_at_a_time; /* see turns.h */
    int64_t counters_ahead_ns;   /* by how much the counters of load have been wound on */
    uint64_t last_serial;
    uint64_t event_count;
    struct event events[MAX_EVENTS]; /* a ring */
    uint64_t log_count;
    struct gpu gpus[MAX_GPUS];
    struct gpu_process processes[MAX_PROCESSES];
    struct process_identity sessions[MAX_SESSIONS];
    struct fault faults[MAX_FAULTS];
    struct counter counters[MAX_COUNTERS];
    struct log_entry log[MAX_LOG]; /* a ring */
};

/* The mapping of this process. `state` is NULL while nothing is mapped; use it only between lock and unlock. */
extern struct state *state;

enum state_problem { STATE_OK, STATE_MISSING, STATE_FOREIGN, STATE_SYSTEM };

enum state_problem state_map(const char *path);
void state_unmap(void);
bool state_create(const char *path, const struct state *content);

/* The mapped file, opened once more; negative when it cannot be. */
int state_open_again(void);

/* Thread and process lock in one. Safe after fork. */
void state_lock(void);
void state_unlock(void);

uint64_t next_serial(void);
int64_t monotonic_ns(void);
int64_t wall_ns(void);
void sleep_ms(unsigned int milliseconds);

/* The model as drivers of that branch tell it; NULL when there is none. */
const struct gpu_model *model_named(const char *key, unsigned int driver_branch);
const struct gpu_model *model_of(const struct gpu *gpu);

bool is_alive(const struct process_identity *identity);
bool identify(pid_t pid, struct process_identity *identity);
void session_open(void);
void session_close(void);
unsigned int count_other_sessions(void);

void count_call(const char *function);

struct log_entry *log_begin(const char *function, const struct gpu *gpu);
void log_end(struct log_entry *entry, int32_t result);

#endif
