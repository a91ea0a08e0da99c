/* libnvidia-ml.so.1 for tests: one GPU, the one that fakecuda.c describes.
 *
 * Environment, read at every call: FAKECUDA_NAME, FAKECUDA_CAPABILITY, FAKECUDA_MEMORY_MB,
 * FAKENVML_NAME (where NVML names another than CUDA: the whole GPU of a slice), FAKENVML_MIG (it is cut into
 * slices), FAKENVML_REASONS (mask of throttle reasons), FAKENVML_LOADED_REASONS (told only while the simulated GPU is at
 * work), FAKENVML_SM_MHZ, FAKENVML_OTHERS (other processes), FAKENVML_FORBIDDEN (what an ordinary user may not
 * ask under MIG or in a container is refused), FAKECUDA_NO_GPU. Clocks fall as FAKECUDA_BOOST says.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { SUCCESS = 0, NOT_SUPPORTED = 3, NO_PERMISSION = 4, NOT_FOUND = 6, INSUFFICIENT_SIZE = 7, DRIVER_NOT_LOADED = 9 };
typedef int Status;
typedef struct { unsigned long long total, unused, used; } Memory;
typedef struct { unsigned pid; unsigned long long bytes; unsigned gpu, compute; } Process;

static int opened;
static long number(const char *name, long otherwise)
{
    const char *value = getenv(name);
    return value && *value ? atol(value) : otherwise;
}
static const char *text(const char *name, const char *otherwise)
{
    const char *value = getenv(name);
    return value && *value ? value : otherwise;
}

static void *driver(const char *name) /* a function of the simulated driver, where it is loaded */
{
    void *library = dlopen("libcuda.so.1", RTLD_NOW | RTLD_NOLOAD);
    return library ? dlsym(library, name) : NULL;
}
static int forbidden(void) { return getenv("FAKENVML_FORBIDDEN") != NULL; }

Status nvmlInit_v2(void) { return getenv("FAKECUDA_NO_GPU") ? DRIVER_NOT_LOADED : (opened++, SUCCESS); }
Status nvmlInitWithFlags(unsigned flags) { (void)flags; return nvmlInit_v2(); }
Status nvmlShutdown(void) { opened--; return SUCCESS; }
int fakenvml_opened(void) { return opened; }
const char *nvmlErrorString(Status s) { return s == SUCCESS ? "Success" : "simulated failure"; }
Status nvmlSystemGetDriverVersion(char *out, unsigned n) { snprintf(out, n, "580.95.05"); return SUCCESS; }
Status nvmlDeviceGetCount_v2(unsigned *n) { *n = 1; return SUCCESS; }
Status nvmlDeviceGetHandleByIndex_v2(unsigned i, void **d) { *d = &opened; return i ? NOT_FOUND : SUCCESS; }
Status nvmlDeviceGetHandleByPciBusId_v2(const char *bus, void **d)
{
    *d = &opened;
    return strcmp(bus, "0000:01:00.0") ? NOT_FOUND : SUCCESS;
}
Status nvmlDeviceGetName(void *d, char *out, unsigned n)
{
    (void)d;
    snprintf(out, n, "%s", text("FAKENVML_NAME", text("FAKECUDA_NAME", "Simulated GPU")));
    return SUCCESS;
}
Status nvmlDeviceGetMigMode(void *d, unsigned *now, unsigned *pending)
{
    (void)d;
    if (!getenv("FAKENVML_MIG")) return NOT_SUPPORTED;
    *now = *pending = number("FAKENVML_MIG", 0) != 0;
    return SUCCESS;
}
Status nvmlDeviceGetCudaComputeCapability(void *d, int *major, int *minor)
{
    (void)d;
    return sscanf(text("FAKECUDA_CAPABILITY", "8.6"), "%d.%d", major, minor) == 2 ? SUCCESS : NOT_SUPPORTED;
}
Status nvmlDeviceGetMemoryInfo(void *d, Memory *m)
{
    (void)d;
    m->total = (unsigned long long)number("FAKECUDA_MEMORY_MB", 1024) << 20;
    m->used = m->total / 8;
    m->unused = m->total - m->used;
    return SUCCESS;
}
Status nvmlDeviceGetClockInfo(void *d, int kind, unsigned *mhz)
{
    (void)d;
    if (forbidden()) return NO_PERMISSION;
    double (*boosting)(void) = NULL;
    *(void **)&boosting = driver("fakecuda_mhz");
    const double mhz_now = boosting ? boosting() : 0;
    *mhz = kind != 1 ? 5000 : mhz_now > 0 ? (unsigned)mhz_now : number("FAKENVML_SM_MHZ", 1500);
    return SUCCESS;
}
Status nvmlDeviceGetTemperature(void *d, int sensor, unsigned *celsius)
{
    (void)d, (void)sensor;
    *celsius = 61;
    return SUCCESS;
}
Status nvmlDeviceGetPowerManagementLimit(void *d, unsigned *mw)
{
    (void)d;
    *mw = 250000;
    return forbidden() ? NO_PERMISSION : SUCCESS;
}
Status nvmlDeviceGetCurrentClocksThrottleReasons(void *d, unsigned long long *mask)
{
    (void)d;
    if (forbidden()) return NO_PERMISSION;
    int (*busy)(void) = NULL;
    *(void **)&busy = driver("fakecuda_busy");
    const int loaded = busy && busy();
    *mask = number("FAKENVML_REASONS", loaded ? 0 : 1); /* idle */
    if (loaded) *mask |= number("FAKENVML_LOADED_REASONS", 0);
    return SUCCESS;
}
Status nvmlDeviceGetComputeRunningProcesses_v3(void *d, unsigned *count, Process *out)
{
    (void)d;
    if (forbidden()) return NO_PERMISSION;
    const unsigned all = 1 + number("FAKENVML_OTHERS", 0), room = *count; /* the asker is one of them */
    *count = all;
    if (room < all) return INSUFFICIENT_SIZE;
    for (unsigned i = 0; i < all; i++) out[i] = (Process){4242 + i, 0, 0, 0}; /* numbers of another namespace */
    return SUCCESS;
}
