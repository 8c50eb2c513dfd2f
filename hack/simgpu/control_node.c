/* simgpu init, lost, reset, reboot, boot-id: the node as a whole. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "control_commands.h"
#include "driver.h"
#include "holders.h"
#include "lookup.h"
#include "node.h"
#include "nvml_api.h"
#include "uuid.h"

enum { FIRST_PCI_BUS = 0x0f, PCI_BUS_STEP = 0x10 };

static bool is_prefix_taken(const struct state *node, const char *uuid)
{
    for (unsigned int i = 0; i < node->gpu_count; i++)
        if (strncmp(node->gpus[i].uuid, uuid, strlen("GPU-") + 8) == 0)
            return true;
    return false;
}

/* The same words make the same UUIDs; no two share the first eight digits, by which a GPU may be named. */
static void name_gpu(const struct state *node, struct gpu *gpu, const char *seed)
{
    for (unsigned int attempt = 0;; attempt++) {
        char name[160];
        snprintf(name, sizeof name, "%s/%s/%u/%u", seed, gpu->model, node->gpu_count, attempt);
        memcpy(gpu->uuid, "GPU-", 4);
        uuid_of_name(name, gpu->uuid + 4, sizeof gpu->uuid - 4);
        if (!is_prefix_taken(node, gpu->uuid))
            return;
    }
}

static void add_gpu(struct state *node, const struct gpu_model *model, const char *seed, bool mig)
{
    struct gpu *gpu = &node->gpus[node->gpu_count];
    snprintf(gpu->model, sizeof gpu->model, "%s", model->key);
    name_gpu(node, gpu, seed);
    snprintf(gpu->board_serial, sizeof gpu->board_serial, "1650%09u", node->gpu_count + 1);
    gpu->minor = node->gpu_count;
    gpu->pci_bus = FIRST_PCI_BUS + PCI_BUS_STEP * node->gpu_count;
    gpu->mig_current = gpu->mig_pending = mig;
    node->gpu_count++;
}

static int add_gpus(struct state *node, const char *wish, const char *seed, bool mig)
{
    char key[64];
    const char *colon = strchr(wish, ':');
    unsigned int count = colon == NULL ? 1 : number(colon + 1, "--gpu MODEL:COUNT");
    snprintf(key, sizeof key, "%.*s", colon == NULL ? (int)strlen(wish) : (int)(colon - wish), wish);
    const struct gpu_model *model = model_named(key, node->driver_branch);
    if (model == NULL) {
        fputs("models:", stderr);
        for (unsigned int i = 0; i < gpu_model_count; i++)
            if (&gpu_models[i] == model_named(gpu_models[i].key, NEWEST_BRANCH))
                fprintf(stderr, " %s", gpu_models[i].key);
        fputc('\n', stderr);
        return refuse("no GPU model %s", key);
    }
    if (node->gpu_count + count > MAX_GPUS)
        return refuse("at most %d GPUs", MAX_GPUS);
    for (unsigned int i = 0; i < count; i++)
        add_gpu(node, model, seed, mig);
    return EXIT_DONE;
}

static int fill_node(struct state *node, const struct words *words)
{
    const char *seed = option(words, "--seed");
    const char *branch = option(words, "--driver");
    node->driver_branch = branch == NULL ? NEWEST_BRANCH : number(branch, "--driver");
    if (driver_of_branch(node->driver_branch) == NULL)
        return refuse("no driver %u: 535, 550, 570 or 580", node->driver_branch);
    for (int i = 0; i + 1 < words->count; i++) {
        if (strcmp(words->values[i], "--gpu") != 0)
            continue;
        int status = add_gpus(node, words->values[i + 1], seed == NULL ? "simgpu" : seed, has_flag(words, "--mig"));
        if (status != EXIT_DONE)
            return status;
    }
    node->fresh_mig_uuids = has_flag(words, "--fresh-mig-uuids");
    /* Handles of an earlier node must name nothing on this one. */
    node->last_serial = (uint64_t)wall_ns() & 0xFFFFFFFFFF;
    new_boot_id(node);
    return EXIT_DONE;
}

int command_init(const char *state_path, const struct words *words)
{
    struct state *node = calloc(1, sizeof *node);
    if (node == NULL)
        return refuse("out of memory");
    int status = fill_node(node, words);
    if (status == EXIT_DONE && !state_create(state_path, node))
        status = refuse("cannot write %s", state_path);
    free(node);
    return status;
}

int command_lost(const struct words *words)
{
    required_gpu(words)->lost = 1;
    return EXIT_DONE;
}

int command_reset(const struct words *words)
{
    struct gpu *gpu = required_gpu(words);
    if (gpu_has_processes(gpu))
        return refuse("%s is in use", gpu->uuid);
    struct log_entry *entry = log_begin("reset", gpu);
    reset_gpu(gpu);
    log_end(entry, NVML_SUCCESS);
    return EXIT_DONE;
}

int command_reboot(const struct words *words)
{
    (void)words;
    struct log_entry *entry = log_begin("reboot", NULL);
    reboot_node();
    log_end(entry, NVML_SUCCESS);
    return EXIT_DONE;
}

int command_boot_id(const struct words *words)
{
    (void)words;
    puts(state->boot_id);
    return EXIT_DONE;
}
