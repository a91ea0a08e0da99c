/* Stands where libnvinfer.so and libnvonnxparser.so would: gives TensorRT's real Python bindings objects
 * whose every virtual call comes out at one callback (Python, see tests/sim/site/trtsim).
 *
 * The bindings import nine C functions and reach everything else through virtual tables. An object here
 * is what the API's classes are, {vptr, mImpl}, with itself as mImpl; each slot of its table is a thunk
 * that passes on its own number and the integer arguments. x86-64 with the Itanium ABI only: `this` is
 * the first argument, or the second where a struct is returned in memory (Dims).
 */
#define _GNU_SOURCE
#include <stdint.h>
#include <stdlib.h>

typedef uintptr_t Word;
typedef struct Object {
    const void *const *vptr;
    struct Object *impl;
    long kind, id;
    char room[256]; /* for fields that inline methods may touch */
} Object;
typedef Word (*Callback)(long kind, long id, int slot, Word returned, Word a, Word b, Word c, Word d);

static Callback callback;
static Object *objects;
static long count;
enum { MOST = 1 << 17, BUILDER = 1, RUNTIME, PARSER };

static int ours(Word p) { return p >= (Word)objects && p < (Word)(objects + count); }

static Word stacked[5];
Word *trtsim_stack(void) { return stacked; } /* structs passed by value lie there (Dims in 8.6) */

static Word dispatch(int slot, Word a, Word b, Word c, Word d, Word e, Word f)
{
    const int returns_struct = !ours(a);
    if (returns_struct && !ours(b)) return 0;
    const Object *self = (const Object *)(returns_struct ? b : a);
    if (!callback) return 0;
    if (!returns_struct) return callback(self->kind, self->id, slot, 0, b, c, d, e);
    callback(self->kind, self->id, slot, a, c, d, e, f);
    return a;
}

#define THUNK(n)                                                                                        \
    static Word t##n(Word a, Word b, Word c, Word d, Word e, Word f, Word s0, Word s1, Word s2, Word s3, \
                     Word s4)                                                                           \
    {                                                                                                   \
        const Word on_stack[5] = {s0, s1, s2, s3, s4};                                                  \
        for (int i = 0; i < 5; i++) stacked[i] = on_stack[i];                                           \
        return dispatch(1##n - 1000, a, b, c, d, e, f);                                                 \
    }
#define TEN_THUNKS(x)                                                                                    \
    THUNK(x##0) THUNK(x##1) THUNK(x##2) THUNK(x##3) THUNK(x##4) THUNK(x##5) THUNK(x##6) THUNK(x##7)      \
    THUNK(x##8) THUNK(x##9)
#define TEN_NAMES(x) t##x##0, t##x##1, t##x##2, t##x##3, t##x##4, t##x##5, t##x##6, t##x##7, t##x##8, t##x##9,
#define EACH_TEN(DO) DO(00) DO(01) DO(02) DO(03) DO(04) DO(05) DO(06) DO(07) DO(08) DO(09) DO(10) DO(11) DO(12) DO(13) DO(14) DO(15)
EACH_TEN(TEN_THUNKS)

extern const char _ZTIv[]; /* some type_info: pybind11 reads the one before the table's first slot */
static const void *const table[] = {0, _ZTIv, EACH_TEN(TEN_NAMES)};

void trtsim_set_callback(Callback f) { callback = f; }
void *trtsim_new(long kind)
{
    if (!objects) objects = calloc(MOST, sizeof *objects);
    if (!objects || count == MOST) return NULL;
    Object *o = &objects[count];
    o->vptr = table + 2;
    o->impl = o;
    o->kind = kind;
    o->id = count++;
    return o;
}
long trtsim_id(Word p) { return ours(p) ? ((Object *)p)->id : -1; }

/* Calls in the other direction, into subclasses that Python made of TensorRT's interfaces. */
void trtsim_log(void *logger, int slot, int severity, const char *message)
{
    typedef void (*Log)(void *, int, const char *);
    (*(Log **)logger)[slot](logger, severity, message);
}
void trtsim_report(void *profiler, int slot, const char *name, float ms)
{
    typedef void (*Report)(void *, const char *, float);
    (*(Report **)profiler)[slot](profiler, name, ms);
}

static void *construct(long kind, void *a, void *b)
{
    Object *o = trtsim_new(kind);
    if (o && callback && !callback(kind, o->id, -1, 0, (Word)a, (Word)b, 0, 0)) return NULL;
    return o;
}
void *createInferBuilder_INTERNAL(void *logger, int version) { (void)version; return construct(BUILDER, logger, 0); }
void *createInferRuntime_INTERNAL(void *logger, int version) { (void)version; return construct(RUNTIME, logger, 0); }
void *createNvOnnxParser_INTERNAL(void *network, void *logger, int version)
{
    (void)version;
    return construct(PARSER, network, logger);
}

/* Imported by the bindings and not used by hwnas. */
void *createInferRefitter_INTERNAL(void *e, void *l, int v) { (void)e, (void)l, (void)v; return NULL; }
void *createNvOnnxParserRefitter_INTERNAL(void *r, void *l, int v) { (void)r, (void)l, (void)v; return NULL; }
void *getBuilderPluginRegistry(int c) { (void)c; return NULL; }
void *getPluginRegistry(void) { return NULL; }
int getNvOnnxParserVersion(void) { return 0; }
_Bool initLibNvInferPlugins(void *l, const char *n) { (void)l, (void)n; return 1; }
#ifdef WITH_CAFFE_AND_UFF /* 8.6 */
#define UNUSED(name) void *name(void) { return NULL; }
UNUSED(_ZN14nvcaffeparser117createCaffeParserEv)
UNUSED(_ZN14nvcaffeparser123shutdownProtobufLibraryEv)
UNUSED(_ZN11nvuffparser15createUffParserEv)
UNUSED(_ZN11nvuffparser8FieldMapC1EPKcPKvNS_9FieldTypeEi)
#endif
