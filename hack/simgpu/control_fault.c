/* simgpu fault, latency: calls that fail, wait, hang or kill their caller. */
#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "control_commands.h"
#include "nvml_api.h"

static const struct {
    const char *name;
    nvmlReturn_t code;
} CODES[] = {
    {"UNINITIALIZED", NVML_ERROR_UNINITIALIZED},
    {"INVALID_ARGUMENT", NVML_ERROR_INVALID_ARGUMENT},
    {"NOT_SUPPORTED", NVML_ERROR_NOT_SUPPORTED},
    {"NO_PERMISSION", NVML_ERROR_NO_PERMISSION},
    {"NOT_FOUND", NVML_ERROR_NOT_FOUND},
    {"INSUFFICIENT_SIZE", NVML_ERROR_INSUFFICIENT_SIZE},
    {"DRIVER_NOT_LOADED", NVML_ERROR_DRIVER_NOT_LOADED},
    {"TIMEOUT", NVML_ERROR_TIMEOUT},
    {"GPU_IS_LOST", NVML_ERROR_GPU_IS_LOST},
    {"RESET_REQUIRED", NVML_ERROR_RESET_REQUIRED},
    {"OPERATING_SYSTEM", NVML_ERROR_OPERATING_SYSTEM},
    {"LIB_RM_VERSION_MISMATCH", NVML_ERROR_LIB_RM_VERSION_MISMATCH},
    {"IN_USE", NVML_ERROR_IN_USE},
    {"MEMORY", NVML_ERROR_MEMORY},
    {"NO_DATA", NVML_ERROR_NO_DATA},
    {"INSUFFICIENT_RESOURCES", NVML_ERROR_INSUFFICIENT_RESOURCES},
    {"ARGUMENT_VERSION_MISMATCH", NVML_ERROR_ARGUMENT_VERSION_MISMATCH},
    {"NOT_READY", NVML_ERROR_NOT_READY},
    {"INVALID_STATE", NVML_ERROR_INVALID_STATE},
    {"UNKNOWN", NVML_ERROR_UNKNOWN},
};

/* A name with or without NVML_ERROR_, or the number. */
static int32_t code_named(const char *text)
{
    static const char PREFIX[] = "NVML_ERROR_";
    if (text == NULL)
        return NVML_SUCCESS;
    if (isdigit((unsigned char)text[0]))
        return (int32_t)number(text, "--code");
    if (strncmp(text, PREFIX, sizeof PREFIX - 1) == 0)
        text += sizeof PREFIX - 1;
    for (size_t i = 0; i < sizeof CODES / sizeof CODES[0]; i++)
        if (strcmp(CODES[i].name, text) == 0)
            return CODES[i].code;
    exit(misuse("unknown code %s", text));
}

static uint32_t optional_number(const struct words *words, const char *name)
{
    const char *text = option(words, name);
    return text == NULL ? 0 : number(text, name);
}

static uint32_t death_named(const char *text)
{
    if (text == NULL)
        return DEATH_NONE;
    if (strcmp(text, "before") == 0)
        return DEATH_BEFORE;
    if (strcmp(text, "after") == 0)
        return DEATH_AFTER;
    exit(misuse("--die before or after?"));
}

static const char *required_function(const struct words *words)
{
    const char *name = option(words, "--function");
    if (name != NULL && strcmp(name, EVERY_FUNCTION) == 0)
        return name;
    if (name == NULL || strncmp(name, "nvml", 4) != 0 || strlen(name) >= FUNCTION_NAME)
        exit(misuse("--function needs the name of an NVML function, as exported (with its _v2 if it has one)"));
    for (const char *c = name; *c != '\0'; c++)
        if (!isalnum((unsigned char)*c) && *c != '_')
            exit(misuse("%s is no function name", name));
    return name;
}

static int add(const struct fault *fault)
{
    for (int i = 0; i < MAX_FAULTS; i++) {
        struct fault *slot = &state->faults[i];
        if (slot->serial != 0)
            continue;
        *slot = *fault;
        __atomic_store_n(&slot->serial, next_serial(), __ATOMIC_RELEASE);
        return EXIT_DONE;
    }
    return refuse("at most %d faults", MAX_FAULTS);
}

static int add_fault(const struct words *words)
{
    struct fault fault = {
        .after = optional_number(words, "--after"),
        .count = optional_number(words, "--count"),
        .code = code_named(option(words, "--code")),
        .delay_ms = optional_number(words, "--delay-ms"),
        .hang = has_flag(words, "--hang"),
        .death = death_named(option(words, "--die")),
    };
    snprintf(fault.function, sizeof fault.function, "%s", required_function(words));
    if (fault.code == 0 && fault.delay_ms == 0 && !fault.hang && fault.death == DEATH_NONE)
        return misuse("a fault needs --code, --delay-ms, --hang or --die");
    return add(&fault);
}

static int list(void)
{
    static const char *const DEATHS[] = {"null", "\"before\"", "\"after\""};
    bool first = true;
    printf("[");
    for (int i = 0; i < MAX_FAULTS; i++) {
        const struct fault *fault = &state->faults[i];
        if (fault->serial == 0 || fault->latency)
            continue;
        printf("%s{\"function\":\"%s\",\"after\":%u,\"count\":%u,\"seen\":%u,\"code\":%d,\"delay_ms\":%u,\"hang\":%s,"
               "\"die\":%s}",
               first ? "" : ",", fault->function, fault->after, fault->count, fault->seen, fault->code, fault->delay_ms,
               fault->hang ? "true" : "false", DEATHS[fault->death % 3]);
        first = false;
    }
    printf("]\n");
    return EXIT_DONE;
}

static int clear(void)
{
    for (int i = 0; i < MAX_FAULTS; i++)
        if (!state->faults[i].latency)
            __atomic_store_n(&state->faults[i].serial, 0, __ATOMIC_RELEASE);
    return EXIT_DONE;
}

int command_fault(const struct words *words)
{
    const char *verb = words->count > 0 ? words->values[0] : "";
    if (strcmp(verb, "add") == 0)
        return add_fault(words);
    if (strcmp(verb, "list") == 0)
        return list();
    return strcmp(verb, "clear") == 0 ? clear() : misuse("fault add, list or clear?");
}

int command_latency(const struct words *words)
{
    const char *function = required_function(words);
    unsigned int milliseconds = number(option(words, "--ms"), "--ms");
    for (int i = 0; i < MAX_FAULTS; i++)
        if (state->faults[i].latency && strcmp(state->faults[i].function, function) == 0)
            __atomic_store_n(&state->faults[i].serial, 0, __ATOMIC_RELEASE);
    if (milliseconds == 0)
        return EXIT_DONE;
    struct fault fault = {.delay_ms = milliseconds, .latency = 1};
    snprintf(fault.function, sizeof fault.function, "%s", function);
    return add(&fault);
}
