/* libcuda.so.1 for tests: one GPU whose memory is host memory and whose kernels run on the host.
 *
 * What it checks, beyond answering: every copy lies inside one live allocation; nothing is freed twice
 * or freed unallocated; red zones around each allocation are whole when it is freed; a context is
 * current; launches name a known kernel with the right number of argument bytes. Work on a stream is
 * held back until something waits for that stream, so that code which forgets to wait reads garbage.
 * Order between streams is not modelled.
 *
 * Environment: FAKECUDA_NAME, FAKECUDA_CAPABILITY ("6.1"), FAKECUDA_MEMORY_MB (all that can be
 * allocated), FAKECUDA_KERNELS (library with NAME_on_host and NAME_pack), FAKECUDA_EAGER (run work
 * when it is queued), FAKECUDA_NO_GPU (no device), FAKECUDA_DRIVER (the CUDA that the driver serves, "12020").
 * All but the last three are read once.
 *
 * FAKECUDA_CLOCK gives the device a time of its own, and with it faults of real cards (read at every call):
 * work takes what it says it takes, begins when it was queued or when the stream is done with the work
 * before, and the arithmetic is done unseen whenever something waits. Its value is the step of the event
 * clock in ns. What is waited for is skipped: the host's time, which fakecuda_now_s gives, is the real one and
 * all that was skipped; with FAKECUDA_HOST_NS it is what was skipped and so much for each look at it, which is
 * the same however busy the machine is. Besides: FAKECUDA_LAUNCH_NS (host time of one launch), FAKECUDA_EVENT_NS (device time of an
 * event), FAKECUDA_BESIDE (how many streams get their work done at full speed; more share), FAKECUDA_JITTER (a share), FAKECUDA_BOOST ("1923,1695,4000": MHz cold, MHz warm, and the ms of work
 * in which two thirds of the fall happen).
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum {
    SUCCESS = 0, INVALID_VALUE = 1, OUT_OF_MEMORY = 2, NO_DEVICE = 100, INVALID_DEVICE = 101,
    INVALID_IMAGE = 200, INVALID_CONTEXT = 201, NO_BINARY = 209, INVALID_HANDLE = 400, NOT_FOUND = 500, NOT_READY = 600,
    ILLEGAL_ADDRESS = 700, LAUNCH_FAILED = 719, NOT_SUPPORTED = 801
};
typedef int Status;
typedef uint64_t Address;
typedef struct Op Op;
typedef struct Graph { Op *first, *last; } Graph;
typedef struct Stream { struct Stream *next; Op *first, *last; Status failed; Graph *capturing; double busy_until_ms; } Stream;
typedef struct Event { double at_ms; int recorded, happened, untimed; } Event;
struct Op {
    Op *next;
    Status (*run)(Op *);
    char *to;
    const char *from;
    size_t size;
    int byte;
    Event *event;
    void *function;
    unsigned grid[3], block[3];
    int (*callback)(void *);
    void *argument;
    double device_ms; /* by the device's own clock */
    char packed[512];
};

/* In this order fakecuda_stats gives them. */
static struct {
    long allocations, frees, streams, streams_freed, events, events_freed, modules, modules_freed, launches,
        live_bytes, peak_bytes, contexts_pushed, default_stream_uses, red_zone_hits, graphs, graphs_freed, blocking;
} stats;
void fakecuda_stats(long *out) { memcpy(out, &stats, sizeof stats); }

static const char *setting(const char *name, const char *otherwise)
{
    const char *value = getenv(name);
    return value && *value ? value : otherwise;
}

/* ---- the device's own time ---- */
static double figure(const char *name) { return atof(setting(name, "0")); }
static int own_clock(void) { return getenv("FAKECUDA_CLOCK") != NULL; }
static double skipped_ms; /* whoever waits for a device with a clock of its own has waited at once */
static double now_ms(void)
{
    const char *look_ns = getenv("FAKECUDA_HOST_NS");
    if (own_clock() && look_ns) return skipped_ms += atof(look_ns) * 1e-6;
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1e3 + t.tv_nsec * 1e-6 + skipped_ms;
}
double fakecuda_now_s(void) { return now_ms() * 1e-3; } /* the host's time as the simulation has it */
static double worked_ms;
double fakecuda_mhz(void) /* for the simulated NVML; 0 where nothing is said of boost */
{
    double cold, warm, fall_ms, share = 1;
    if (sscanf(setting("FAKECUDA_BOOST", ""), "%lf,%lf,%lf", &cold, &warm, &fall_ms) != 3) return 0;
    for (double left = worked_ms / fall_ms; left > 0; left -= 0.01) share -= share * (left < 0.01 ? left : 0.01);
    return warm + (cold - warm) * share;
}
static double lasting_ms(double ms)
{
    static uint64_t seed = 1;
    double cold;
    seed = seed * 6364136223846793005ULL + 1442695040888963407ULL;
    ms *= 1 + figure("FAKECUDA_JITTER") * ((double)(seed >> 40) / (1 << 24));
    if (sscanf(setting("FAKECUDA_BOOST", ""), "%lf,", &cold) == 1) ms *= cold / fakecuda_mhz();
    worked_ms += ms;
    return ms;
}
static double stepped(double at_ms)
{
    const double step_ms = figure("FAKECUDA_CLOCK") * 1e-6;
    return step_ms > 0 ? step_ms * (double)(long long)(at_ms / step_ms) : at_ms;
}
static void until(double at_ms)
{
    const double left_ms = at_ms - now_ms();
    if (own_clock() && left_ms > 0) skipped_ms += left_ms;
    while (!own_clock() && now_ms() < at_ms) {}
}

/* ---- device ---- */
static int capability[2] = {8, 6};
static long capacity;
static char device_name[128];
Status cuInit(unsigned flags)
{
    (void)flags;
    sscanf(setting("FAKECUDA_CAPABILITY", "8.6"), "%d.%d", &capability[0], &capability[1]);
    capacity = atol(setting("FAKECUDA_MEMORY_MB", "1024")) << 20;
    snprintf(device_name, sizeof device_name, "%s", setting("FAKECUDA_NAME", "Simulated GPU"));
    return getenv("FAKECUDA_NO_GPU") ? NO_DEVICE : SUCCESS;
}
Status cuGetExportTable(const void **out, const void *id) /* NVRTC 13 asks */
{
    (void)id;
    *out = NULL;
    return NOT_SUPPORTED;
}
Status cuDriverGetVersion(int *v) { *v = atoi(setting("FAKECUDA_DRIVER", "13000")); return SUCCESS; }
Status cuDeviceGetCount(int *n) { *n = 1; return SUCCESS; }
Status cuDeviceGet(int *device, int index) { *device = 0; return index ? INVALID_DEVICE : SUCCESS; }
Status cuDeviceGetName(char *out, int n, int d) { (void)d; snprintf(out, n, "%s", device_name); return SUCCESS; }
Status cuDeviceTotalMem_v2(size_t *n, int d) { (void)d; *n = capacity; return SUCCESS; }
Status cuDeviceComputeCapability(int *major, int *minor, int d)
{
    (void)d;
    *major = capability[0];
    *minor = capability[1];
    return SUCCESS;
}
Status cuDeviceGetPCIBusId(char *out, int n, int d) { (void)d; snprintf(out, n, "0000:01:00.0"); return SUCCESS; }
Status cuDeviceGetAttribute(int *value, int attribute, int d)
{
    (void)d;
    switch (attribute) {
    case 1: case 2: case 3: *value = 1024; break;  /* threads a block */
    case 4: *value = 64; break;
    case 5: *value = 2147483647; break;            /* blocks a grid */
    case 6: case 7: *value = 65535; break;
    case 8: *value = 48 << 10; break;              /* shared memory a block */
    case 10: *value = 32; break;                   /* warp */
    case 16: *value = 30; break;                   /* multiprocessors */
    case 38: *value = 3 << 20; break;              /* L2 */
    case 75: *value = capability[0]; break;
    case 76: *value = capability[1]; break;
    default: *value = 0;
    }
    return SUCCESS;
}

/* ---- contexts: the primary one only ---- */
static void *current[64];
static int depth;
static char primary;
Status cuDevicePrimaryCtxRetain(void **c, int d) { (void)d; *c = &primary; return SUCCESS; }
Status cuDevicePrimaryCtxRelease_v2(int d) { (void)d; return SUCCESS; }
Status cuCtxPushCurrent_v2(void *c)
{
    if (c != &primary || depth == 64) return INVALID_CONTEXT;
    current[depth++] = c;
    stats.contexts_pushed = depth;
    return SUCCESS;
}
Status cuCtxPopCurrent_v2(void **c)
{
    if (!depth) return INVALID_CONTEXT;
    depth--;
    stats.contexts_pushed = depth;
    if (c) *c = current[depth];
    return SUCCESS;
}
Status cuCtxGetCurrent(void **c) { *c = depth ? current[depth - 1] : NULL; return SUCCESS; }
Status cuCtxSetCurrent(void *c)
{
    if (depth) current[depth - 1] = c;
    else if (c) return cuCtxPushCurrent_v2(c);
    return SUCCESS;
}
Status cuCtxGetDevice(int *d) { *d = 0; return depth ? SUCCESS : INVALID_CONTEXT; }
Status cuCtxGetApiVersion(void *c, unsigned *v) { (void)c; *v = 13000; return SUCCESS; }
Status cuCtxDetach(void *c) { (void)c; return SUCCESS; }

/* ---- memory ---- */
/* How often memory was written: who did so last knows that it still holds what it wrote. */
static long writes;
long fakecuda_writes(void) { return writes; }
void fakecuda_wrote(void) { writes++; }
enum { ZONE = 256, MAX_ALLOCATIONS = 1 << 16 };
static struct { char *at; size_t size; int live; } table[MAX_ALLOCATIONS];
static int used;

int fakecuda_inside(Address at, size_t size)
{
    for (int i = used; i-- > 0;)
        if (table[i].live && at >= (Address)table[i].at && at + size <= (Address)table[i].at + table[i].size)
            return 1;
    return 0;
}
Status cuMemAlloc_v2(Address *out, size_t size)
{
    if (!depth) return INVALID_CONTEXT;
    if (!size) return INVALID_VALUE;
    if (stats.live_bytes + (long)size > capacity || used == MAX_ALLOCATIONS) return OUT_OF_MEMORY;
    char *block = aligned_alloc(ZONE, (size + 3 * ZONE - 1) / ZONE * ZONE);
    if (!block) return OUT_OF_MEMORY;
    memset(block, 0xFD, ZONE);
    memset(block + ZONE, 0xCD, size);
    memset(block + ZONE + size, 0xFD, ZONE);
    table[used].at = block + ZONE;
    table[used].size = size;
    table[used++].live = 1;
    *out = (Address)(block + ZONE);
    stats.allocations++;
    fakecuda_wrote();
    stats.live_bytes += size;
    if (stats.live_bytes > stats.peak_bytes) stats.peak_bytes = stats.live_bytes;
    return SUCCESS;
}
static void drain_all(void);
static int whole(const unsigned char *zone)
{
    for (int i = 0; i < ZONE; i++)
        if (zone[i] != 0xFD) return 0;
    return 1;
}
Status cuMemFree_v2(Address at)
{
    if (!depth) return INVALID_CONTEXT;
    for (int i = 0; i < used; i++) {
        if (!table[i].live || (Address)table[i].at != at) continue;
        drain_all();
        unsigned char *start = (unsigned char *)table[i].at;
        const int intact = whole(start - ZONE) && whole(start + table[i].size);
        table[i].live = 0;
        stats.frees++;
        stats.live_bytes -= table[i].size;
        free(start - ZONE);
        if (!intact) stats.red_zone_hits++;
        return intact ? SUCCESS : ILLEGAL_ADDRESS;
    }
    return INVALID_VALUE;
}
Status cuMemGetInfo_v2(size_t *unused, size_t *total)
{
    *total = capacity;
    *unused = capacity - stats.live_bytes;
    return SUCCESS;
}
Status cuMemHostAlloc(void **p, size_t n, unsigned f) { (void)f; *p = malloc(n); return *p ? SUCCESS : OUT_OF_MEMORY; }
Status cuMemFreeHost(void *p) { free(p); return SUCCESS; }

/* ---- streams: first in, first out, run when something waits ---- */
static Stream default_stream, *streams;
static Stream *find(void *handle)
{
    if (!handle) {
        stats.default_stream_uses++;
        return &default_stream;
    }
    for (Stream *s = streams; s; s = s->next)
        if (s == handle) return s;
    return NULL;
}
static Status drain(Stream *s)
{
    while (s->first) {
        Op *op = s->first;
        s->first = op->next;
        if (!s->first) s->last = NULL;
        if (!s->failed) s->failed = op->run(op);
        free(op);
    }
    return s->failed;
}
int fakecuda_busy(void) /* for the simulated NVML */
{
    for (Stream *s = streams; s; s = s->next)
        if (s->first || now_ms() < s->busy_until_ms) return 1;
    return 0;
}
static void drain_all(void)
{
    drain(&default_stream);
    for (Stream *s = streams; s; s = s->next) drain(s);
}
static Status queue(void *handle, Op template)
{
    Stream *s = find(handle);
    if (!s) return INVALID_HANDLE;
    if (!depth) return INVALID_CONTEXT;
    Op *op = malloc(sizeof *op);
    *op = template;
    op->next = NULL;
    if (s->capturing) {
        if (s->capturing->last) s->capturing->last->next = op;
        else s->capturing->first = op;
        s->capturing->last = op;
        return SUCCESS;
    }
    if (own_clock()) {
        const double now = now_ms(), begins_ms = now > s->busy_until_ms ? now : s->busy_until_ms;
        double device_ms = op->device_ms;
        const double beside = figure("FAKECUDA_BESIDE");
        if (beside > 0 && device_ms > 0) {
            int busy = 1;
            for (Stream *other = streams; other; other = other->next)
                busy += other != s && other->busy_until_ms > begins_ms;
            if (busy > beside) device_ms *= busy / beside;
        }
        s->busy_until_ms = begins_ms + (device_ms > 0 ? lasting_ms(device_ms) : 0);
        if (op->event) op->event->at_ms = stepped(s->busy_until_ms);
    }
    if (s->last) s->last->next = op;
    else s->first = op;
    s->last = op;
    return getenv("FAKECUDA_EAGER") || s == &default_stream ? drain(s) : SUCCESS;
}
Status cuStreamCreate(void **out, unsigned flags)
{
    if (!depth) return INVALID_CONTEXT;
    if (!(flags & 1)) stats.blocking++; /* it would wait for the legacy stream */
    Stream *s = calloc(1, sizeof *s);
    s->next = streams;
    streams = s;
    stats.streams++;
    *out = s;
    return SUCCESS;
}
Status cuStreamDestroy_v2(void *handle)
{
    for (Stream **at = &streams; *at; at = &(*at)->next) {
        if (*at != handle) continue;
        Stream *s = *at;
        drain(s);
        *at = s->next;
        free(s);
        stats.streams_freed++;
        return SUCCESS;
    }
    return INVALID_HANDLE;
}
Status cuStreamSynchronize(void *handle)
{
    Stream *s = find(handle);
    if (s && own_clock()) until(s->busy_until_ms);
    return s ? drain(s) : INVALID_HANDLE;
}

/* ---- graphs ---- */
enum { CAPTURING = 900 };
Status cuStreamBeginCapture_v2(void *handle, int mode)
{
    (void)mode;
    Stream *s = find(handle);
    if (!s || s == &default_stream) return INVALID_HANDLE;
    s->capturing = calloc(1, sizeof *s->capturing);
    return SUCCESS;
}
Status cuStreamEndCapture(void *handle, Graph **out)
{
    Stream *s = find(handle);
    if (!s || !s->capturing) return INVALID_HANDLE;
    *out = s->capturing;
    s->capturing = NULL;
    return getenv("FAKECUDA_NO_CAPTURE") ? CAPTURING : SUCCESS;
}
static Graph *copied(const Graph *graph)
{
    Graph *copy = calloc(1, sizeof *copy);
    for (const Op *op = graph->first; op; op = op->next) {
        Op *mine = malloc(sizeof *mine);
        *mine = *op;
        mine->next = NULL;
        if (copy->last) copy->last->next = mine;
        else copy->first = mine;
        copy->last = mine;
    }
    return copy;
}
Status cuGraphInstantiateWithFlags(Graph **out, Graph *graph, unsigned long long flags)
{
    (void)flags;
    *out = copied(graph);
    stats.graphs++;
    return SUCCESS;
}
static void destroyed(Graph *graph)
{
    for (Op *op = graph->first, *next; op; op = next) {
        next = op->next;
        free(op);
    }
    free(graph);
}
Status cuGraphDestroy(Graph *graph) { destroyed(graph); return SUCCESS; }
Status cuGraphExecDestroy(Graph *graph) { drain_all(); destroyed(graph); stats.graphs_freed++; return SUCCESS; }
Status cuGraphLaunch(Graph *graph, void *stream)
{
    until(now_ms() + figure("FAKECUDA_LAUNCH_NS") * 1e-6);
    for (const Op *op = graph->first; op; op = op->next) {
        const Status status = queue(stream, *op);
        if (status) return status;
    }
    return SUCCESS;
}
Status cuCtxSynchronize(void) { drain_all(); return SUCCESS; }

static Status run_copy(Op *op) { fakecuda_wrote(); memcpy(op->to, op->from, op->size); return SUCCESS; }
static Status run_read(Op *op) { memcpy(op->to, op->from, op->size); return SUCCESS; }
static Status run_fill(Op *op) { fakecuda_wrote(); memset(op->to, op->byte, op->size); return SUCCESS; }
Status cuMemcpyHtoDAsync_v2(Address to, const void *from, size_t n, void *s)
{
    if (!fakecuda_inside(to, n)) return INVALID_VALUE;
    return queue(s, (Op){.run = run_copy, .to = (char *)to, .from = from, .size = n});
}
Status cuMemcpyDtoHAsync_v2(void *to, Address from, size_t n, void *s)
{
    if (!fakecuda_inside(from, n)) return INVALID_VALUE;
    return queue(s, (Op){.run = run_read, .to = to, .from = (const char *)from, .size = n});
}
Status cuMemcpyDtoDAsync_v2(Address to, Address from, size_t n, void *s)
{
    if (!fakecuda_inside(from, n) || !fakecuda_inside(to, n)) return INVALID_VALUE;
    return queue(s, (Op){.run = run_copy, .to = (char *)to, .from = (const char *)from, .size = n});
}
Status cuMemsetD8Async(Address to, unsigned char byte, size_t n, void *s)
{
    if (!fakecuda_inside(to, n)) return INVALID_VALUE;
    return queue(s, (Op){.run = run_fill, .to = (char *)to, .byte = byte, .size = n});
}

/* ---- events ---- */
static Status run_record(Op *op)
{
    if (!own_clock()) op->event->at_ms = now_ms();
    op->event->happened = 1;
    return SUCCESS;
}
Status cuEventCreate(Event **out, unsigned flags)
{
    if (!depth) return INVALID_CONTEXT;
    *out = calloc(1, sizeof **out);
    (*out)->untimed = flags & 2;
    stats.events++;
    return SUCCESS;
}
Status cuEventDestroy_v2(Event *e) { drain_all(); free(e); stats.events_freed++; return SUCCESS; }
Status cuEventRecord(Event *e, void *s)
{
    e->recorded = 1;
    e->happened = 0;
    return queue(s, (Op){.run = run_record, .event = e, .device_ms = figure("FAKECUDA_EVENT_NS") * 1e-6});
}
Status cuEventQuery(Event *e)
{
    if (own_clock() && e->recorded) return now_ms() >= e->at_ms ? SUCCESS : NOT_READY;
    return !e->recorded || e->happened ? SUCCESS : NOT_READY;
}
Status cuEventSynchronize(Event *e) { (void)e; drain_all(); return SUCCESS; }
Status cuEventElapsedTime_v2(float *ms, Event *a, Event *b)
{
    if (a->untimed || b->untimed || !a->recorded || !b->recorded) return INVALID_HANDLE;
    if (!a->happened || !b->happened) return NOT_READY;
    *ms = (float)(b->at_ms - a->at_ms);
    return SUCCESS;
}
Status cuEventElapsedTime(float *ms, Event *a, Event *b) { return cuEventElapsedTime_v2(ms, a, b); }

/* ---- modules and launches ---- */
typedef struct {
    int (*run)(const unsigned *, const unsigned *, const char *);
    size_t (*pack)(void **, char *);
    int is_delay, only_compares;
    size_t item_bytes; /* of what is compared */
} Function;
/* The last comparison of all: where nothing was written since, its results lie there still. */
static struct { Function *function; char packed[512]; long writes; } compared;
static void *kernels(void)
{
    static void *library;
    if (!library) library = dlopen(setting("FAKECUDA_KERNELS", ""), RTLD_NOW);
    return library;
}
Status cuModuleLoadDataEx(void **m, const void *image, unsigned n, void *o, void *v)
{
    (void)n, (void)o, (void)v;
    if (!depth) return INVALID_CONTEXT;
    /* A cubin is an ELF file; its chip stands in e_flags, in another byte since ABI version 8. */
    const unsigned char *elf = image;
    if (memcmp(elf, "\177ELF", 4)) return INVALID_IMAGE;
    const int chip = elf[8] >= 8 ? elf[49] : elf[48];
    if (chip / 10 != capability[0] || chip % 10 > capability[1]) return NO_BINARY;
    *m = malloc(1);
    stats.modules++;
    return SUCCESS;
}
Status cuModuleLoadData(void **m, const void *image) { return cuModuleLoadDataEx(m, image, 0, 0, 0); }
Status cuModuleUnload(void *m) { free(m); stats.modules_freed++; return SUCCESS; }
Status cuModuleGetFunction(void **out, void *module, const char *name)
{
    (void)module;
    char symbol[256];
    if (!kernels()) return NOT_FOUND;
    Function *f = malloc(sizeof *f);
    snprintf(symbol, sizeof symbol, "%s_on_host", name);
    *(void **)&f->run = dlsym(kernels(), symbol);
    snprintf(symbol, sizeof symbol, "%s_pack", name);
    *(void **)&f->pack = dlsym(kernels(), symbol);
    f->is_delay = !strcmp(name, "delay");
    f->only_compares = !strncmp(name, "max_abs_diff", 12);
    f->item_bytes = strstr(name, "f16") ? 2 : 4;
    *out = f;
    fakecuda_wrote(); /* `compared` knows functions by their place, which may be another's again */
    return f->run && f->pack ? SUCCESS : NOT_FOUND;
}
Status cuFuncGetAttribute(int *v, int a, void *f) { (void)a, (void)f; *v = 0; return SUCCESS; }
/* PyCUDA still names the block before it launches; the launch names it again. */
Status cuFuncSetBlockShape(void *f, int x, int y, int z)
{
    (void)f;
    return x > 0 && y > 0 && z > 0 && x * y * z <= 1024 ? SUCCESS : INVALID_VALUE;
}
/* A large comparison, in the order in which it lies in memory: a block's threads one after another would walk
 * all of it each. The kernel itself is tried on a device without a clock of its own. */
enum { LARGE = 1 << 18 };
static int compared_at_once(const Op *op)
{
    const struct { const float *a, *b; uint64_t count; float *partial; } *at = (const void *)op->packed;
    if (((Function *)op->function)->item_bytes != sizeof *at->a || at->count < LARGE) return 0;
    float worst = 0;
    for (uint64_t i = 0; i < at->count; i++) {
        const float off = at->a[i] > at->b[i] ? at->a[i] - at->b[i] : at->b[i] - at->a[i];
        if (!(off <= worst)) worst = off;
        if (worst != worst) break; /* not a number */
    }
    for (unsigned block = 0; block < op->grid[0]; block++) at->partial[block] = worst;
    return 1;
}
static Status run_kernel(Op *op)
{
    Function *f = op->function;
    if (own_clock() && f->is_delay) return SUCCESS; /* its time went by already */
    if (!f->only_compares) fakecuda_wrote(); /* else into memory that only comparisons use */
    else if (own_clock() && compared.function == f && compared.writes == writes &&
             !memcmp(compared.packed, op->packed, sizeof op->packed))
        return SUCCESS;
    const int done = own_clock() && f->only_compares && compared_at_once(op);
    const Status status = !done && f->run(op->grid, op->block, op->packed) ? LAUNCH_FAILED : SUCCESS;
    if (f->only_compares && !status) {
        compared.function = f;
        compared.writes = writes;
        memcpy(compared.packed, op->packed, sizeof op->packed);
    }
    return status;
}
Status cuLaunchKernel(Function *f, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz,
                      unsigned shared, void *stream, void **parameters, void **extra)
{
    (void)shared;
    if (!gx || !gy || !gz || !bx || !by || !bz || bx * by * bz > 1024) return INVALID_VALUE;
    Op op = {.run = run_kernel, .function = f, .grid = {gx, gy, gz}, .block = {bx, by, bz}};
    const size_t wanted = f->pack(NULL, NULL);
    if (wanted > sizeof op.packed) return INVALID_VALUE;
    if (parameters) {
        f->pack(parameters, op.packed);
    } else if (extra) { /* 1: buffer, 2: its size, 0: end */
        const void *buffer = NULL;
        size_t size = 0;
        for (int i = 0; extra[i]; i += 2) {
            if ((size_t)extra[i] == 1) buffer = extra[i + 1];
            if ((size_t)extra[i] == 2) size = *(size_t *)extra[i + 1];
        }
        if (size != wanted) return INVALID_VALUE;
        memcpy(op.packed, buffer, size);
    }
    stats.launches++;
    op.device_ms = f->is_delay ? (double)*(uint64_t *)op.packed * 1e-6 : 2e-3;
    until(now_ms() + figure("FAKECUDA_LAUNCH_NS") * 1e-6);
    return queue(stream, op);
}

/* For libnvinfer's stand-in: work that belongs to a stream. */
static Status run_callback(Op *op) { return op->callback(op->argument) ? LAUNCH_FAILED : SUCCESS; }
int fakecuda_enqueue(void *stream, int (*callback)(void *), void *argument, int kernels, double device_ms)
{
    /* Kernel by kernel: the host needs its time for each, and the last begins when it is launched. */
    Stream *s = find(stream);
    const int captured = s && s->capturing;
    const double launch_ms = captured ? 0 : figure("FAKECUDA_LAUNCH_NS") * 1e-6, begun_ms = now_ms();
    until(begun_ms + launch_ms);
    const Status status =
        queue(stream, (Op){.run = run_callback, .callback = callback, .argument = argument, .device_ms = device_ms});
    until(begun_ms + kernels * launch_ms);
    if (!status && !captured && own_clock() && kernels > 0) {
        const double last_ms = now_ms() + device_ms / kernels;
        if (launch_ms > 0 && s->busy_until_ms < last_ms) s->busy_until_ms = last_ms;
    }
    return status;
}

/* ---- words, and the way cuda-python finds functions ---- */
static const struct { Status status; const char *name, *text; } words[] = {
    {SUCCESS, "CUDA_SUCCESS", "no error"},
    {INVALID_VALUE, "CUDA_ERROR_INVALID_VALUE", "invalid argument"},
    {OUT_OF_MEMORY, "CUDA_ERROR_OUT_OF_MEMORY", "out of memory"},
    {NO_DEVICE, "CUDA_ERROR_NO_DEVICE", "no CUDA-capable device is detected"},
    {INVALID_DEVICE, "CUDA_ERROR_INVALID_DEVICE", "invalid device ordinal"},
    {INVALID_IMAGE, "CUDA_ERROR_INVALID_IMAGE", "device kernel image is invalid"},
    {INVALID_CONTEXT, "CUDA_ERROR_INVALID_CONTEXT", "invalid device context"},
    {NO_BINARY, "CUDA_ERROR_NO_BINARY_FOR_GPU", "no kernel image is available for execution on the device"},
    {INVALID_HANDLE, "CUDA_ERROR_INVALID_HANDLE", "invalid resource handle"},
    {NOT_FOUND, "CUDA_ERROR_NOT_FOUND", "named symbol not found"},
    {NOT_READY, "CUDA_ERROR_NOT_READY", "device not ready"},
    {ILLEGAL_ADDRESS, "CUDA_ERROR_ILLEGAL_ADDRESS", "an illegal memory access was encountered"},
    {LAUNCH_FAILED, "CUDA_ERROR_LAUNCH_FAILED", "unspecified launch failure"},
    {NOT_SUPPORTED, "CUDA_ERROR_NOT_SUPPORTED", "operation not supported"},
    {CAPTURING, "CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED", "operation not permitted when stream is capturing"},
};
static int word(Status s)
{
    for (unsigned i = 0; i < sizeof words / sizeof *words; i++)
        if (words[i].status == s) return i;
    return -1;
}
Status cuGetErrorName(Status s, const char **out) { *out = word(s) < 0 ? "?" : words[word(s)].name; return SUCCESS; }
Status cuGetErrorString(Status s, const char **out) { *out = word(s) < 0 ? "?" : words[word(s)].text; return SUCCESS; }
Status cuGetProcAddress_v2(const char *symbol, void **out, int version, uint64_t flags, int *found)
{
    (void)version, (void)flags;
    static const char *suffixes[] = {"_v4", "_v3", "_v2", ""};
    static void *self;
    char name[256];
    Dl_info here;
    if (!self && dladdr((void *)cuInit, &here)) self = dlopen(here.dli_fname, RTLD_NOW);
    *out = NULL;
    for (int i = 0; i < 4 && !*out; i++) {
        snprintf(name, sizeof name, "%s%s", symbol, suffixes[i]);
        *out = dlsym(self, name);
    }
    if (found) *found = *out ? 0 : 1;
    return *out ? SUCCESS : NOT_FOUND;
}
