/* A driver for tests: one GPU, whose health is what the files in $FAKE_GPU say. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static int there(const char *name) {
    char path[4096];
    snprintf(path, sizeof path, "%s/%s", getenv("FAKE_GPU"), name);
    return access(path, F_OK) == 0;
}
enum { OK = 0, NOT_SUPPORTED = 3, TIMEOUT = 10, GPU_IS_LOST = 15 };

int nvmlInitWithFlags(unsigned flags) { return OK; }
const char *nvmlErrorString(int code) { return "fake"; }
int nvmlDeviceGetHandleByUUID(const char *uuid, void **gpu) {
    *gpu = (void *)1;
    return there("lost") ? GPU_IS_LOST : OK;
}
int nvmlDeviceGetIndex(void *gpu, unsigned *index) { *index = 2; return OK; }
int nvmlDeviceGetUtilizationRates(void *gpu, unsigned *rates) {
    rates[0] = 75; rates[1] = 10;
    return OK;
}
int nvmlDeviceGetMemoryInfo(void *gpu, unsigned long long *memory) {
    memory[0] = 80e9; memory[1] = 70e9; memory[2] = 10e9; /* total, free, used */
    return OK;
}
int nvmlDeviceGetTemperature(void *gpu, int sensor, unsigned *celsius) { *celsius = 61; return OK; }
int nvmlDeviceGetPowerUsage(void *gpu, unsigned *milliwatts) {
    *milliwatts = 350500;
    return there("no-power-sensor") ? NOT_SUPPORTED : OK;
}
int nvmlEventSetCreate(void **events) { *events = (void *)1; return OK; }
int nvmlDeviceRegisterEvents(void *gpu, unsigned long long kinds, void *events) { return OK; }
int nvmlEventSetWait_v2(void *events, void *event, unsigned milliseconds) {
    static int told;
    usleep(10000);
    if (told || !there("xid")) return TIMEOUT;
    told = 1;
    memset(event, 0, 24);
    ((unsigned long long *)event)[2] = 79;
    return OK;
}
