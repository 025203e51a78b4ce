// Runs CUDA C++ kernels on the CPU so that their arithmetic and indexing can be tested where there is no GPU.
//
// tests/support/kernels_on_cpu writes a source that includes this, then the .cu file, then one entry for each kernel. Blocks
// run one after the other. Threads of a block run as a plain loop, or, where the kernel synchronises, as fibers that are
// switched at each barrier in round-robin order. Shared memory, static and dynamic, holds NaN (all bits set) when a block
// starts, and a block that writes beyond the dynamic shared memory it asked for makes the launch fail.
//
// Deterministic. A launch may run backwards, last block and last thread first: a result that then differs betrays a race
// (a missing barrier, two threads that write one element). Built with CHECK_RACES and races.cpp, every access is checked: that
// finds the races that both orders hide, barriers that only some threads reach, and misaligned access. x86-64 only (the fiber switch is assembly). Shared variables must stand in kernels themselves,
// not in inline or template functions.
#pragma once
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <vector>

struct uint3_ { unsigned x, y, z; };
struct dim3 {
    unsigned x, y, z;
    dim3(unsigned a = 1, unsigned b = 1, unsigned c = 1) : x(a), y(b), z(c) {}
};

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __shared__ static __attribute__((section("cuda_shared")))
#define __constant__ static
#define __launch_bounds__(...)
#define __align__(bytes) __attribute__((aligned(bytes)))

static uint3_ threadIdx, blockIdx;
static dim3 blockDim, gridDim;
static const int warpSize = 32;

// --- vector types: aligned as CUDA aligns them ---------------------------------------------------------------------

#define CUDA_VECTOR(T, NAME) \
    struct __align__(2 * sizeof(T)) NAME##2 { T x, y; }; \
    struct NAME##3 { T x, y, z; }; \
    struct __align__(4 * sizeof(T) < 16 ? 4 * sizeof(T) : 16) NAME##4 { T x, y, z, w; }; \
    static inline NAME##2 make_##NAME##2(T x, T y) { return {x, y}; } \
    static inline NAME##3 make_##NAME##3(T x, T y, T z) { return {x, y, z}; } \
    static inline NAME##4 make_##NAME##4(T x, T y, T z, T w) { return {x, y, z, w}; }
CUDA_VECTOR(float, float)
CUDA_VECTOR(int, int)
CUDA_VECTOR(unsigned, uint)
CUDA_VECTOR(unsigned char, uchar)

// --- half: stored in 16 bits, computed in float, rounded to the nearest even -----------------------------------------

struct __align__(2) __half { uint16_t bits; };
typedef __half half;
struct __align__(4) __half2 { __half x, y; };
typedef __half2 half2;

static inline float __half2float(__half h) {
    const uint32_t sign = (uint32_t)(h.bits & 0x8000) << 16, exponent = h.bits >> 10 & 31, fraction = h.bits & 1023;
    if (exponent == 0) return (sign ? -1.f : 1.f) * ldexpf((float)fraction, -24);
    const uint32_t word = sign | (exponent == 31 ? 255u : exponent + 112) << 23 | fraction << 13;
    float f;
    memcpy(&f, &word, 4);
    return f;
}

static inline __half __float2half(float f) {
    uint32_t word;
    memcpy(&word, &f, 4);
    const uint16_t sign = word >> 16 & 0x8000;
    const float size = fabsf(f);
    if (size != size) return {(uint16_t)(sign | 0x7fff)};
    if (size >= 65520.f) return {(uint16_t)(sign | 0x7c00)};
    if (size == 0) return {sign};
    int exponent;
    frexpf(size, &exponent);
    const int step = std::max(exponent - 11, -24);  // the place of the last bit that is kept
    const uint32_t kept = (uint32_t)nearbyintf(ldexpf(size, -step));
    if (step == -24) return {(uint16_t)(sign | kept)};  // subnormal, or just rounded up to normal
    return {(uint16_t)(sign | (((uint32_t)(step + 24) << 10) + kept))};  // its leading bit adds one to the exponent
}
static inline __half __float2half_rn(float f) { return __float2half(f); }
static inline __half2 __floats2half2_rn(float x, float y) { return {__float2half(x), __float2half(y)}; }
static inline float2 __half22float2(__half2 h) { return {__half2float(h.x), __half2float(h.y)}; }

// --- arithmetic ------------------------------------------------------------------------------------------------------

using std::max;
using std::min;
static inline float rsqrtf(float x) { return 1.f / sqrtf(x); }
#define __expf expf
template <class T> static inline T __ldg(const T* p) { return *p; }
static inline float __fdividef(float a, float b) { return a / b; }
template <class T> static inline T atomicAdd(T* p, T v) { T old = *p; *p += v; return old; }
template <class T> static inline T atomicMax(T* p, T v) { T old = *p; if (v > old) *p = v; return old; }
static inline unsigned __popc(unsigned x) { return __builtin_popcount(x); }
static inline unsigned __umulhi(unsigned a, unsigned b) { return (unsigned)(((uint64_t)a * b) >> 32); }
static inline float __uint_as_float(unsigned u) { float f; memcpy(&f, &u, 4); return f; }
static inline unsigned __float_as_uint(float f) { unsigned u; memcpy(&u, &f, 4); return u; }

// --- fibers ----------------------------------------------------------------------------------------------------------

extern "C" void cpu_fiber_switch(void** save_from, void* to);
asm(R"(
.text
.globl cpu_fiber_switch
.type cpu_fiber_switch,@function
cpu_fiber_switch:
 pushq %rbp
 pushq %rbx
 pushq %r12
 pushq %r13
 pushq %r14
 pushq %r15
 movq %rsp,(%rdi)
 movq %rsi,%rsp
 popq %r15
 popq %r14
 popq %r13
 popq %r12
 popq %rbx
 popq %rbp
 ret
)");

// The linker gives the ends of the section that holds static shared memory; weak, since there may be none.
extern "C" char __start_cuda_shared[] __attribute__((weak, visibility("hidden")));
extern "C" char __stop_cuda_shared[] __attribute__((weak, visibility("hidden")));

#ifdef CHECK_RACES
extern "C" {
void races_shared_memory(char* first, char* last);
void races_at(int block, int thread, int epoch);
void races_new_block();
void races_found(const char* what, int a, int b);
void races_watch(bool on);
}
#else
static inline void races_shared_memory(char*, char*) {}
static inline void races_at(int, int, int) {}
static inline void races_new_block() {}
static inline void races_found(const char*, int, int) {}
static inline void races_watch(bool) {}
#endif

namespace cuda_on_cpu {

enum Wait { kExchange, kBarrier, kWarpBarrier };

constexpr size_t kStackBytes = 65536;
constexpr size_t kSharedBytes = 1 << 18;

// epoch: how many barriers of the block it has passed; line and wait: where it waits, and for what.
struct Fiber { void* context; uint3_ thread; bool done; int epoch, line; Wait wait; };

static char dynamic_shared[kSharedBytes] __attribute__((aligned(64)));
static std::vector<Fiber> fibers;
static std::vector<char*> stacks;
static void* scheduler_context;
static int current = -1;
static bool in_fibers = false, backwards = false;
static std::function<void()>* body;
// What threads give each other, and how often each has. Two places in turn: one barrier then parts writing from reading,
// and who is there first may not write again before all have read.
static uint64_t exchange[2][1024];
static unsigned exchanges[1024];

static int block_number = 0;

static inline void yield(Wait wait, int line) {
    if (!in_fibers) abort();  // the kernel synchronises: launch it with synchronises = true
    int me = current;
    fibers[me].wait = wait, fibers[me].line = line;
    if (wait == kBarrier) fibers[me].epoch++;
    cpu_fiber_switch(&fibers[me].context, scheduler_context);
}

static void fiber_entry() {
    (*body)();
    fibers[current].done = true;
    cpu_fiber_switch(&fibers[current].context, scheduler_context);
}

// The i-th of n in the order of this launch.
static inline unsigned place(unsigned i, unsigned n) { return backwards ? n - 1 - i : i; }

static inline uint3_ coordinates(unsigned i, dim3 size) {
    return {i % size.x, i / size.x % size.y, i / (size.x * size.y)};
}

static void run_block_as_loop(dim3 block) {
    const unsigned n = block.x * block.y * block.z;
    for (unsigned i = 0; i < n; i++) {
        threadIdx = coordinates(place(i, n), block);
        races_at(block_number, place(i, n), 0);
        (*body)();
    }
}

// Between two rounds every thread stands at its next wait, or has ended: all of a block have to stand at one barrier, whole
// warps at one exchange.
static void check_convergence(int n) {
    int first = -1, ended = 0;
    for (int i = 0; i < n; i++) {
        if (fibers[i].done) { ended++; continue; }
        if (first < 0) first = i;
        if (fibers[i].wait != fibers[first].wait || fibers[i].line != fibers[first].line)
            races_found("threads wait at two places, lines", fibers[first].line, fibers[i].line);
    }
    if (first < 0) return;
    if (ended && fibers[first].wait == kBarrier)
        races_found("threads ended before a barrier, its line and their count", fibers[first].line, ended);
    if (fibers[first].wait == kBarrier) return;
    for (int warp = 0; warp < n; warp += 32) {
        int there = 0;
        for (int lane = warp; lane < n && lane < warp + 32; lane++) there += !fibers[lane].done;
        if (there && there != 32) races_found("part of a warp exchanges, line and lanes", fibers[first].line, there);
    }
}

static void run_block_as_fibers(dim3 block) {
    int n = block.x * block.y * block.z;
    for (int i = 0; i < n; i++) {
        Fiber& f = fibers[i];
        f.done = false;
        f.epoch = 0;
        exchanges[i] = 0;
        f.thread = coordinates(i, block);
        void** sp = (void**)(stacks[i] + kStackBytes);
        *--sp = 0;
        *--sp = (void*)fiber_entry;
        for (int k = 0; k < 6; k++) *--sp = 0;  // the six registers the switch restores
        f.context = sp;
    }
    for (int live = n; live;) {
        live = 0;
        for (int turn = 0; turn < n; turn++) {
            const int i = place(turn, n);
            if (fibers[i].done) continue;
            current = i;
            threadIdx = fibers[i].thread;
            races_at(block_number, i, fibers[i].epoch);
            cpu_fiber_switch(&scheduler_context, fibers[i].context);
            if (!fibers[i].done) live++;
        }
        check_convergence(n);
    }
}

// Returns 0; 1 where a block wrote beyond its dynamic shared memory; 2 where it asks for more than there is.
template <class F>
int launch(const unsigned* grid, const unsigned* block_size, size_t shared, bool back, bool synchronises, F kernel) {
    if (shared > kSharedBytes) return 2;
    backwards = back;
    std::function<void()> call = kernel;
    body = &call;
    gridDim = dim3(grid[0], grid[1], grid[2]);
    dim3 block = blockDim = dim3(block_size[0], block_size[1], block_size[2]);
    in_fibers = synchronises;
    if (synchronises) {
        int n = block.x * block.y * block.z;
        fibers.resize(n);
        while ((int)stacks.size() < n) stacks.push_back((char*)aligned_alloc(64, kStackBytes));
    }
    if (__start_cuda_shared) races_shared_memory(__start_cuda_shared, __stop_cuda_shared);
    races_watch(true);
    const uint64_t blocks = (uint64_t)gridDim.x * gridDim.y * gridDim.z;
    for (uint64_t turn = 0; turn < blocks; turn++) {
        const uint64_t i = backwards ? blocks - 1 - turn : turn;
        blockIdx = {(unsigned)(i % gridDim.x), (unsigned)(i / gridDim.x % gridDim.y), (unsigned)(i / gridDim.x / gridDim.y)};
        if (__start_cuda_shared) memset(__start_cuda_shared, 0xFF, __stop_cuda_shared - __start_cuda_shared);
        const size_t guarded = std::min(shared + 4096, kSharedBytes);
        memset(dynamic_shared, 0xFF, guarded);
        block_number = (int)i;
        races_new_block();
        synchronises ? run_block_as_fibers(block) : run_block_as_loop(block);
        for (size_t i = shared; i < guarded; i++)
            if (dynamic_shared[i] != (char)0xFF) return 1;
    }
    races_watch(false);
    return 0;
}

static inline int thread_in_block() {
    return threadIdx.x + blockDim.x * (threadIdx.y + blockDim.y * threadIdx.z);
}

template <class T> static inline T shuffle(T value, int source_lane, int line) {
    int me = thread_in_block(), n = blockDim.x * blockDim.y * blockDim.z;
    uint64_t* given = exchange[exchanges[me]++ % 2];
    uint64_t word = 0;
    memcpy(&word, &value, sizeof value);
    given[me] = word;
    yield(kExchange, line);
    int source = (me & ~31) | (source_lane & 31);
    T result = value;
    if (source < n) memcpy(&result, &given[source], sizeof result);
    return result;
}

}  // namespace cuda_on_cpu

// Round-robin switching: every live fiber reaches the barrier before any passes it. Macros, for the lines.
#define __syncthreads() cuda_on_cpu::yield(cuda_on_cpu::kBarrier, __LINE__)
#define __syncwarp(...) cuda_on_cpu::yield(cuda_on_cpu::kWarpBarrier, __LINE__)
#define __shfl_sync(mask, value, lane) cuda_on_cpu::shuffle(value, lane, __LINE__)
#define __shfl_xor_sync(mask, value, step) \
    cuda_on_cpu::shuffle(value, (cuda_on_cpu::thread_in_block() & 31) ^ (step), __LINE__)
#define __shfl_down_sync(mask, value, step) \
    cuda_on_cpu::shuffle( \
        value, std::min((cuda_on_cpu::thread_in_block() & 31) + (step), cuda_on_cpu::thread_in_block() & 31 | 31), __LINE__)
