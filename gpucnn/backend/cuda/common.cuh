// What all CUDA kernels of gpucnn share. Each file of kernels is compiled after this one (`launch.py`), float32; the Python
// file of the same name launches its kernels. Compiled with TF32=1, products and convolutions round their factors to TF32
// and multiply on tensor cores. Compiled with HALF=1, images, weights and gradients (`stored`) are float16 in memory: they are
// widened when they are read and rounded when they are written, and every sum is float32. TF32 holds each of them exactly.
//
// Shapes, here and everywhere: N images, C channels, H x W pixels, F filters, KH x KW kernel, stride SH x SW, dilation
// DH x DW, `top` and `left` padding, OH x OW output pixels, PH x PW pixels after 2x2 pooling, G groups. All arrays are
// C-ordered: images (N, C, H, W), weights (F, C/G, KH, KW). A pixel is one position of one image.
//
// Every result is a function of its inputs alone, bit by bit: each output has one thread that sums in a fixed order, and
// sums over many blocks go through a second kernel; there is no floating-point atomic. Counts that can pass 2^31 are
// long long; one image (C*H*W, F*OH*OW) and one filter stay below it, which the host checks. Grids may be larger than
// needed: every kernel checks its bounds. Pointers that a flag switches off point anywhere and are not followed.

#ifndef TF32
#define TF32 0
#endif
#ifndef HALF
#define HALF 0
#endif
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
#define TENSOR_CORES 1
#else
#define TENSOR_CORES 0
#endif

#define FOR_EACH(i, count) \
    for (long long i = (long long)blockIdx.x * blockDim.x + threadIdx.x; i < (count); \
         i += (long long)gridDim.x * blockDim.x)

__device__ __forceinline__ bool is_nan(float value) { return value != value; }
__device__ __forceinline__ float not_a_number() { return __uint_as_float(0x7fc00000u); }
__device__ __forceinline__ float infinity() { return __uint_as_float(0x7f800000u); }

#if HALF
struct __align__(2) Half {
    unsigned short bits;

    Half() = default;
#ifdef __CUDA_ARCH__
    __device__ __forceinline__ Half(float value) { asm("cvt.rn.f16.f32 %0, %1;" : "=h"(bits) : "f"(value)); }
    __device__ __forceinline__ operator float() const {
        float value;
        asm("cvt.f32.f16 %0, %1;" : "=f"(value) : "h"(bits));
        return value;
    }
#else
    Half(float value) : bits(__float2half(value).bits) {}
    operator float() const {
        const __half same = {bits};
        return __half2float(same);
    }
#endif
};
#define stored Half
#else
#define stored float
#endif

// Threads of a block that reduces.
const int REDUCE = 256;
