/* Mapping, locking and the tables that belong to no GPU. */
#include "state.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

static const char MAGIC[8] = "simgpu1";

struct state *state;

static char state_path[4096];
static int lock_fd = -1;
static pid_t lock_owner;
static pthread_mutex_t threads = PTHREAD_MUTEX_INITIALIZER;

static enum state_problem check_content(int fd)
{
    struct stat status;
    if (fstat(fd, &status) != 0)
        return STATE_SYSTEM;
    if ((size_t)status.st_size != sizeof(struct state))
        return STATE_FOREIGN;
    return STATE_OK;
}

enum state_problem state_map(const char *path)
{
    int fd = open(path, O_RDWR | O_CLOEXEC);
    if (fd < 0)
        return errno == ENOENT ? STATE_MISSING : STATE_SYSTEM;
    enum state_problem problem = check_content(fd);
    if (problem == STATE_OK) {
        void *mapped = mmap(NULL, sizeof(struct state), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
        if (mapped == MAP_FAILED) {
            problem = STATE_SYSTEM;
        } else {
            state = mapped;
            if (memcmp(state->magic, MAGIC, sizeof MAGIC) != 0 || state->layout != sizeof(struct state)) {
                munmap(mapped, sizeof(struct state));
                state = NULL;
                problem = STATE_FOREIGN;
            }
        }
    }
    if (problem != STATE_OK) {
        close(fd);
        return problem;
    }
    snprintf(state_path, sizeof state_path, "%s", path);
    lock_fd = fd;
    lock_owner = getpid();
    return STATE_OK;
}

void state_unmap(void)
{
    if (state == NULL)
        return;
    munmap(state, sizeof(struct state));
    state = NULL;
    close(lock_fd);
    lock_fd = -1;
}

/* Written beside and renamed, so that no process ever maps half a node. */
bool state_create(const char *path, const struct state *content)
{
    char beside[4200];
    snprintf(beside, sizeof beside, "%s.%d", path, (int)getpid());
    FILE *file = fopen(beside, "we");
    if (file == NULL)
        return false;
    struct state *copy = malloc(sizeof *copy);
    bool written = copy != NULL;
    if (written) {
        *copy = *content;
        memcpy(copy->magic, MAGIC, sizeof MAGIC);
        copy->layout = sizeof(struct state);
        written = fwrite(copy, sizeof *copy, 1, file) == 1;
    }
    free(copy);
    written = fclose(file) == 0 && written;
    if (!written || rename(beside, path) != 0) {
        unlink(beside);
        return false;
    }
    return true;
}

/* flock belongs to the open file, which a forked child shares with its parent: the child opens its own. */
static void open_own_lock(void)
{
    if (lock_owner == getpid())
        return;
    int fd = open(state_path, O_RDWR | O_CLOEXEC);
    if (fd >= 0)
        lock_fd = fd;
    lock_owner = getpid();
}

static void before_fork(void) { pthread_mutex_lock(&threads); }
static void after_fork(void) { pthread_mutex_unlock(&threads); }

__attribute__((constructor)) static void survive_fork(void) { pthread_atfork(before_fork, after_fork, after_fork); }

void state_lock(void)
{
    pthread_mutex_lock(&threads);
    if (state == NULL)
        return;
    open_own_lock();
    while (flock(lock_fd, LOCK_EX) != 0 && errno == EINTR)
        ;
}

void state_unlock(void)
{
    if (lock_fd >= 0)
        flock(lock_fd, LOCK_UN);
    pthread_mutex_unlock(&threads);
}

/* By the descriptor: the path may name another node by now, or none. */
int state_open_again(void)
{
    char path[64];
    open_own_lock();
    snprintf(path, sizeof path, "/proc/self/fd/%d", lock_fd);
    return open(path, O_RDWR | O_CLOEXEC);
}

uint64_t next_serial(void) { return ++state->last_serial; }

static int64_t clock_ns(clockid_t clock)
{
    struct timespec now;
    clock_gettime(clock, &now);
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

int64_t monotonic_ns(void) { return clock_ns(CLOCK_MONOTONIC); }
int64_t wall_ns(void) { return clock_ns(CLOCK_REALTIME); }

void sleep_ms(unsigned int milliseconds)
{
    struct timespec left = {milliseconds / 1000, (long)(milliseconds % 1000) * 1000000};
    while (nanosleep(&left, &left) != 0 && errno == EINTR)
        ;
}

const struct gpu_model *model_named(const char *key, unsigned int driver_branch)
{
    for (unsigned int i = 0; i < gpu_model_count; i++)
        if (strcmp(gpu_models[i].key, key) == 0 && driver_branch < gpu_models[i].before_branch)
            return &gpu_models[i];
    return NULL;
}

const struct gpu_model *model_of(const struct gpu *gpu) { return model_named(gpu->model, state->driver_branch); }

/* Reads state and start time of a process; a zombie holds no device any more. */
bool identify(pid_t pid, struct process_identity *identity)
{
    char path[64];
    char text[1024];
    snprintf(path, sizeof path, "/proc/%d/stat", (int)pid);
    FILE *file = fopen(path, "re");
    if (file == NULL)
        return false;
    size_t length = fread(text, 1, sizeof text - 1, file);
    fclose(file);
    text[length] = '\0';
    char *after_name = strrchr(text, ')');
    char run_state = 0;
    unsigned long long started = 0;
    if (after_name == NULL ||
        sscanf(after_name + 1, " %c %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %llu",
               &run_state, &started) != 2)
        return false;
    identity->pid = pid;
    identity->started = started;
    return run_state != 'Z' && run_state != 'X';
}

bool is_alive(const struct process_identity *identity)
{
    struct process_identity now;
    return identity->pid != 0 && identify(identity->pid, &now) && now.started == identity->started;
}

void session_open(void)
{
    struct process_identity own;
    if (!identify(getpid(), &own))
        return;
    for (int i = 0; i < MAX_SESSIONS; i++) {
        struct process_identity *slot = &state->sessions[i];
        if (slot->pid != 0 && slot->pid != own.pid && is_alive(slot))
            continue;
        slot->started = own.started;
        __atomic_store_n(&slot->pid, own.pid, __ATOMIC_RELEASE);
        return;
    }
}

void session_close(void)
{
    for (int i = 0; i < MAX_SESSIONS; i++)
        if (state->sessions[i].pid == getpid())
            __atomic_store_n(&state->sessions[i].pid, 0, __ATOMIC_RELEASE);
}

unsigned int count_other_sessions(void)
{
    unsigned int count = 0;
    for (int i = 0; i < MAX_SESSIONS; i++)
        count += state->sessions[i].pid != getpid() && is_alive(&state->sessions[i]);
    return count;
}

void count_call(const char *function)
{
    uint32_t hash = 2166136261u;
    for (const char *c = function; *c != '\0'; c++)
        hash = (hash ^ (unsigned char)*c) * 16777619u;
    for (uint32_t probe = 0; probe < MAX_COUNTERS; probe++) {
        struct counter *slot = &state->counters[(hash + probe) % MAX_COUNTERS];
        if (slot->function[0] == '\0')
            snprintf(slot->function, sizeof slot->function, "%s", function);
        if (strcmp(slot->function, function) == 0) {
            slot->calls++;
            return;
        }
    }
}

/* The entry stands before the effect, without a result: a death in between leaves a question, not a gap. */
struct log_entry *log_begin(const char *function, const struct gpu *gpu)
{
    struct log_entry *entry = &state->log[state->log_count % MAX_LOG];
    memset(entry, 0, sizeof *entry);
    entry->seq = state->log_count + 1;
    entry->begun_ns = entry->monotonic_ns = monotonic_ns();
    entry->wall_ns = wall_ns();
    entry->pid = getpid();
    entry->mode = entry->start = entry->size = entry->gi = entry->ci = NO_VALUE;
    entry->result = NO_RESULT;
    snprintf(entry->function, sizeof entry->function, "%s", function);
    if (gpu != NULL)
        snprintf(entry->gpu, sizeof entry->gpu, "%s", gpu->uuid);
    __atomic_store_n(&state->log_count, state->log_count + 1, __ATOMIC_RELEASE);
    return entry;
}

void log_end(struct log_entry *entry, int32_t result)
{
    entry->ended_ns = monotonic_ns();
    entry->result = result;
}
