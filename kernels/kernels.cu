// The CUDA kernels of hwnas: pre-processing, and three helpers for honest timing and parity.
//
// Compiled at run time by NVRTC or nvcc for the GPU that is there (hwnas/backends/cuda/kernels.py), and,
// with HWNAS_ON_HOST and tests/sim/native/host_shim.h, by g++ so that the tests can hold every result
// against numpy bit by bit. Nothing is included: no CUDA headers are needed to compile it.
//
// Arithmetic is written with the _rn intrinsics: one IEEE rounding an operation, never contracted to
// a fused multiply-add, which is what numpy does and what makes "bit-equal" a fair demand.

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;

#ifdef HWNAS_ON_HOST
__device__ __forceinline__ u64 global_ns() { return host_ns(); }
__device__ __forceinline__ u16 half_bits(float v) { return host_half_bits(v); }
__device__ __forceinline__ float half_value(u16 bits) { return host_half_value(bits); }
__device__ __forceinline__ void pause() {}
#else
__device__ __forceinline__ u64 global_ns()
{
    u64 t;
    asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(t));
    return t;
}
// Round to nearest even, like numpy's astype(float16).
__device__ __forceinline__ u16 half_bits(float v)
{
    u16 bits;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(bits) : "f"(v));
    return bits;
}
__device__ __forceinline__ float half_value(u16 bits)
{
    float v;
    asm("cvt.f32.f16 %0, %1;" : "=f"(v) : "h"(bits));
    return v;
}
__device__ __forceinline__ void pause()
{
#if __CUDA_ARCH__ >= 700  // older chips have no nanosleep and spin
    __nanosleep(100);
#endif
}
#endif

__device__ __forceinline__ void put(float* at, float v) { *at = v; }
__device__ __forceinline__ void put(u16* at, float v) { *at = half_bits(v); }
__device__ __forceinline__ float get(const float* at) { return *at; }
__device__ __forceinline__ float get(const u16* at) { return half_value(*at); }

// uint8 (n, src_h, src_w, channels) with `pitch` bytes a row -> (n, channels, dst_h, dst_w):
// separable resize, division by 255, normalisation by channel, optional swap of the channel order.
// Output row y is the sum over j < taps_y of weight_y[y * taps_y + j] times source row first_y[y] + j;
// columns likewise. Rows that need fewer taps carry zero weights; no index leaves the image.
template <typename T>
__device__ __forceinline__ void preprocess(const u8* __restrict__ src, T* __restrict__ dst, int n, int src_h,
                                           int pitch, int channels, int dst_h, int dst_w,
                                           const int* __restrict__ first_y, const float* __restrict__ weight_y,
                                           int taps_y, const int* __restrict__ first_x,
                                           const float* __restrict__ weight_x, int taps_x,
                                           const float* __restrict__ mean, const float* __restrict__ std,
                                           int swap)
{
    const u64 plane = (u64)dst_h * dst_w;
    const u64 step = (u64)gridDim.x * blockDim.x;
    for (u64 i = (u64)blockIdx.x * blockDim.x + threadIdx.x; i < plane * n; i += step) {
        const u64 image = i / plane, pixel = i % plane;
        const int y = (int)(pixel / dst_w), x = (int)(pixel % dst_w);
        const u8* corner = src + (image * src_h + first_y[y]) * (u64)pitch + (u64)first_x[x] * channels;
        for (int c = 0; c < channels; ++c) {
            const int from = swap ? channels - 1 - c : c;
            float sum = 0.f;
            for (int j = 0; j < taps_y; ++j) {
                const float wy = weight_y[y * taps_y + j];
                if (wy == 0.f) continue;  // the row may lie outside the image
                float row = 0.f;
                for (int k = 0; k < taps_x; ++k) {
                    const float wx = weight_x[x * taps_x + k];
                    if (wx == 0.f) continue;
                    row = __fadd_rn(row, __fmul_rn(wx, (float)corner[(u64)j * pitch + k * channels + from]));
                }
                sum = __fadd_rn(sum, __fmul_rn(wy, row));
            }
            // Whole levels, half to even: what training sees, whose images are kept as bytes.
            const float unit = __fdiv_rn(rintf(sum), 255.f);
            put(dst + (image * channels + c) * plane + pixel, __fdiv_rn(__fsub_rn(unit, mean[c]), std[c]));
        }
    }
}

#define PREPROCESS(name, T)                                                                                  \
    extern "C" __global__ void name(const u8* __restrict__ src, T* __restrict__ dst, int n, int src_h,       \
                                    int pitch, int channels, int dst_h, int dst_w,                           \
                                    const int* __restrict__ first_y, const float* __restrict__ weight_y,     \
                                    int taps_y, const int* __restrict__ first_x,                             \
                                    const float* __restrict__ weight_x, int taps_x,                          \
                                    const float* __restrict__ mean, const float* __restrict__ std, int swap) \
    {                                                                                                        \
        preprocess<T>(src, dst, n, src_h, pitch, channels, dst_h, dst_w, first_y, weight_y, taps_y, first_x, \
                      weight_x, taps_x, mean, std, swap);                                                    \
    }
PREPROCESS(preprocess_f32, float)
PREPROCESS(preprocess_f16, u16)

// Reads and writes a buffer larger than the L2 cache, so that its lines replace whatever was cached.
extern "C" __global__ void l2_flush(u32* __restrict__ buffer, u64 words)
{
    const u64 step = (u64)gridDim.x * blockDim.x;
    for (u64 i = (u64)blockIdx.x * blockDim.x + threadIdx.x; i < words; i += step) buffer[i] += 1u;
}

// Keeps its stream busy for about `ns` nanoseconds: work that is queued behind it meanwhile starts
// without waiting for the host. A second clock bounds the wait, should the first stand still: no GPU
// ticks four times a nanosecond.
extern "C" __global__ void delay(u64 ns)
{
    const u64 start = global_ns();
    const long long cycles = clock64();
    while (global_ns() - start < ns && (u64)(clock64() - cycles) < 4 * ns) pause();
}

// The larger of two, where a NaN beats every number: an output of NaNs must not look like parity.
__device__ __forceinline__ float worse(float a, float b) { return a != a || b <= a ? a : b; }

// Largest |a[i] - b[i]| by block, to partial[blockIdx.x]. Needs 256 threads a block.
template <typename T>
__device__ __forceinline__ void max_abs_diff(const T* __restrict__ a, const T* __restrict__ b, u64 count,
                                             float* __restrict__ partial, float* best)
{
    float mine = 0.f;
    const u64 step = (u64)gridDim.x * blockDim.x;
    for (u64 i = (u64)blockIdx.x * blockDim.x + threadIdx.x; i < count; i += step)
        mine = worse(mine, fabsf(__fsub_rn(get(a + i), get(b + i))));
    best[threadIdx.x] = mine;
    __syncthreads();
    for (int half = 128; half > 0; half >>= 1) {
        if ((int)threadIdx.x < half) best[threadIdx.x] = worse(best[threadIdx.x], best[threadIdx.x + half]);
        __syncthreads();
    }
    if (threadIdx.x == 0) partial[blockIdx.x] = best[0];
}
extern "C" __global__ void max_abs_diff_f32(const float* __restrict__ a, const float* __restrict__ b, u64 count,
                                            float* __restrict__ partial)
{
    __shared__ float best[256];
    max_abs_diff(a, b, count, partial, best);
}
extern "C" __global__ void max_abs_diff_f16(const u16* __restrict__ a, const u16* __restrict__ b, u64 count,
                                            float* __restrict__ partial)
{
    __shared__ float best[256];
    max_abs_diff(a, b, count, partial, best);
}
