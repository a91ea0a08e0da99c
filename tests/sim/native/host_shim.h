// Runs CUDA kernels on the CPU: g++ -x c++ -std=c++17 -DHWNAS_ON_HOST -include host_shim.h
//
// The threads of a block are fibres (ucontext) that take turns and switch only at a barrier, so
// __syncthreads() means what it means on the device, and a barrier that not every thread of the
// block reaches (a deadlock there) is reported instead of hanging. Blocks run one after another.
//
// Not modelled: warps and their shuffles, contention of atomics, weak memory ordering, textures.
#pragma once
#include <ucontext.h>

#include <chrono>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <functional>
#include <utility>
#include <vector>

#define __global__
#define __device__
#define __forceinline__ inline
#define __restrict__ __restrict
#define __shared__ static  // one block at a time
#define __syncthreads() host::barrier()

struct uint3 { unsigned x, y, z; };
struct dim3 { unsigned x, y, z; };
static uint3 threadIdx, blockIdx;
static dim3 blockDim, gridDim;

// One IEEE rounding an operation; the build passes -ffp-contract=off so that g++ keeps it so.
static inline float __fadd_rn(float a, float b) { return a + b; }
static inline float __fsub_rn(float a, float b) { return a - b; }
static inline float __fmul_rn(float a, float b) { return a * b; }
static inline float __fdiv_rn(float a, float b) { return a / b; }

static inline unsigned long long host_ns()
{
    const auto now = std::chrono::steady_clock::now().time_since_epoch();
    return (unsigned long long)std::chrono::duration_cast<std::chrono::nanoseconds>(now).count();
}
static inline long long clock64() { return (long long)host_ns(); }
static inline unsigned short host_half_bits(float v)
{
    const _Float16 half = (_Float16)v;  // round to nearest even
    unsigned short bits;
    std::memcpy(&bits, &half, sizeof bits);
    return bits;
}
static inline float host_half_value(unsigned short bits)
{
    _Float16 half;
    std::memcpy(&half, &bits, sizeof half);
    return (float)half;
}

namespace host {

enum Result { OK = 0, DIVERGENT_BARRIER = 1 };

struct Fibre {
    ucontext_t context;
    std::vector<char> stack;
    uint3 thread;
    bool done, waiting;
};
static ucontext_t scheduler;
static Fibre* current;
static const std::function<void()>* body;

static void enter()
{
    (*body)();
    current->done = true;
}

static inline void barrier()
{
    current->waiting = true;
    swapcontext(&current->context, &scheduler);
}

static void start(Fibre& fibre, unsigned index)
{
    fibre.done = fibre.waiting = false;
    fibre.thread = {index % blockDim.x, index / blockDim.x % blockDim.y, index / (blockDim.x * blockDim.y)};
    getcontext(&fibre.context);
    fibre.context.uc_stack.ss_sp = fibre.stack.data();
    fibre.context.uc_stack.ss_size = fibre.stack.size();
    fibre.context.uc_link = &scheduler;
    makecontext(&fibre.context, enter, 0);
}

static int run_block(std::vector<Fibre>& fibres)
{
    for (unsigned i = 0; i < fibres.size(); ++i) start(fibres[i], i);
    for (;;) {
        size_t done = 0, waiting = 0;
        for (auto& fibre : fibres) {
            if (!fibre.done) {
                fibre.waiting = false;
                current = &fibre;
                threadIdx = fibre.thread;
                swapcontext(&scheduler, &fibre.context);
            }
            done += fibre.done;
            waiting += fibre.waiting;
        }
        if (done == fibres.size()) return OK;
        if (waiting != fibres.size()) return DIVERGENT_BARRIER;  // some left while others wait
    }
}

static int run_grid(dim3 grid, dim3 block, const std::function<void()>& work)
{
    gridDim = grid;
    blockDim = block;
    body = &work;
    std::vector<Fibre> fibres(block.x * block.y * block.z);
    for (auto& fibre : fibres) fibre.stack.resize(64 << 10);
    for (unsigned z = 0; z < grid.z; ++z)
        for (unsigned y = 0; y < grid.y; ++y)
            for (unsigned x = 0; x < grid.x; ++x) {
                blockIdx = {x, y, z};
                if (const int result = run_block(fibres)) return result;
            }
    return OK;
}

// Arguments travel packed, as CU_LAUNCH_PARAM_BUFFER_POINTER packs them: each at its own alignment.
template <typename... A>
static size_t layout(size_t* offsets)
{
    size_t end = 0, i = 0;
    const auto place = [&](size_t bytes, size_t alignment) {
        const size_t at = (end + alignment - 1) / alignment * alignment;
        if (offsets) offsets[i++] = at;
        end = at + bytes;
    };
    (place(sizeof(A), alignof(A)), ...);
    return end;
}

template <typename... A, size_t... I>
static int call(void (*kernel)(A...), dim3 grid, dim3 block, const char* packed, std::index_sequence<I...>)
{
    size_t offsets[sizeof...(A)];
    layout<A...>(offsets);
    return run_grid(grid, block, [&] { kernel(*reinterpret_cast<const A*>(packed + offsets[I])...); });
}
template <typename... A>
static int call(void (*kernel)(A...), dim3 grid, dim3 block, const char* packed)
{
    return call(kernel, grid, block, packed, std::index_sequence_for<A...>{});
}

// From cuLaunchKernel's kernelParams, an array of addresses; the size alone where there is none.
template <typename... A, size_t... I>
static size_t pack(void** at, char* packed, std::index_sequence<I...>)
{
    size_t offsets[sizeof...(A)];
    const size_t size = layout<A...>(offsets);
    if (at) (std::memcpy(packed + offsets[I], at[I], sizeof(A)), ...);
    return size;
}
template <typename... A>
static size_t pack(void (*)(A...), void** at, char* packed)
{
    return pack<A...>(at, packed, std::index_sequence_for<A...>{});
}

}  // namespace host

// name_on_host runs a kernel on packed arguments; name_pack packs them.
#define HOST_EXPORT(name)                                                                               \
    extern "C" int name##_on_host(const unsigned* grid, const unsigned* block, const char* packed)      \
    {                                                                                                   \
        return host::call(name, {grid[0], grid[1], grid[2]}, {block[0], block[1], block[2]}, packed);   \
    }                                                                                                   \
    extern "C" size_t name##_pack(void** at, char* packed) { return host::pack(name, at, packed); }
