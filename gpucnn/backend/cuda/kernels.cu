// The CUDA kernels of gpucnn, float32. `launch.py` compiles this file; the other files of this folder launch its kernels.
// Compiled with TF32=1, products and convolutions round their factors to TF32 and multiply on tensor cores.
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

// --- Tiles --------------------------------------------------------------------------------------------------------
//
// A block computes a TM x TN tile of a product; a thread RM x RN elements of it, in registers: at row(i), column() + j. The
// operands pass through shared memory TK rows at a time, each element rounded(): A as [TK][TM], B as [TK][TN] with column n
// at place(n). Rows are PAD elements longer, so that what a warp reads at once lies in different banks, and still start at
// 16 bytes, so that four elements can be read at once.

const int PAD = TF32 ? 8 : 4;
#define SHARED_TILE(NAME, ROWS, COLUMNS) __shared__ __align__(16) float NAME[(ROWS) * ((COLUMNS) + PAD)]

#if !TF32

__device__ __forceinline__ float rounded(float value) { return value; }

template <int TM, int TN, int TK, int RM, int RN>
struct Tile {
    static const int threads = (TM / RM) * (TN / RN), LA = TM + PAD, LB = TN + PAD;

    static __device__ __forceinline__ int row(int i) { return threadIdx.x / (TN / RN) * RM + i; }
    static __device__ __forceinline__ int column() { return threadIdx.x % (TN / RN) * RN; }
    static __device__ __forceinline__ int place(int n) { return n; }

    static __device__ __forceinline__ void multiply(const float* A, const float* B, float (&sum)[RM][RN]) {
#pragma unroll 4
        for (int k = 0; k < TK; k++) {
            float a[RM], b[RN];
            for (int i = 0; i < RM; i++) a[i] = A[k * LA + row(i)];
            for (int j = 0; j < RN; j++) b[j] = B[k * LB + column() + j];
            for (int i = 0; i < RM; i++)
                for (int j = 0; j < RN; j++) sum[i][j] += a[i] * b[j];
        }
    }
};

#else

// To 10 bits of mantissa, ties away from zero; NaN stays NaN.
__device__ __forceinline__ float rounded(float value) {
#if TENSOR_CORES
    unsigned bits;
    asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(bits) : "f"(value));
    return __uint_as_float(bits);
#else
    return is_nan(value) ? value : __uint_as_float((__float_as_uint(value) + 0x1000u) & ~0x1fffu);
#endif
}

// c (16, 8) += a (16, 8) b (8, 8) by a warp. Thread l of it, with g = l / 4 and t = l % 4, holds (PTX ISA, mma.m16n8k8)
// a at (g, t), (g + 8, t), (g, t + 4), (g + 8, t + 4); b at (t, g), (t + 4, g); c at (g, 2t), (g, 2t + 1), (g + 8, 2t),
// (g + 8, 2t + 1). The scalar twin asks the warp for the same elements; it sums in float32, one k after the other.
__device__ __forceinline__ void multiply_add(
    float& c0, float& c1, float& c2, float& c3, const float (&a)[4], const float (&b)[2]) {
#if TENSOR_CORES
    asm volatile(  // so that it is not moved to where a warp is divided
        "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+f"(c0), "+f"(c1), "+f"(c2), "+f"(c3)
        : "r"(__float_as_uint(a[0])), "r"(__float_as_uint(a[1])), "r"(__float_as_uint(a[2])), "r"(__float_as_uint(a[3])),
          "r"(__float_as_uint(b[0])), "r"(__float_as_uint(b[1])));
#else
    const int g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
    for (int k = 0; k < 8; k++) {
        const float upper = __shfl_sync(0xffffffffu, a[k / 4 * 2], g * 4 + k % 4);
        const float lower = __shfl_sync(0xffffffffu, a[k / 4 * 2 + 1], g * 4 + k % 4);
        const float left = __shfl_sync(0xffffffffu, b[k / 4], t * 8 + k % 4);
        const float right = __shfl_sync(0xffffffffu, b[k / 4], t * 8 + 4 + k % 4);
        c0 += upper * left, c1 += upper * right, c2 += lower * left, c3 += lower * right;
    }
#endif
}

// A warp computes 4 RM x 32 elements. The columns of the tile are the rows of its multiply_add; place() spreads them so
// that a thread's four columns follow each other, as they do without tensor cores.
template <int TM, int TN, int TK, int RM, int RN>
struct Tile {
    static_assert(RM % 2 == 0 && RN == 4 && TM % (4 * RM) == 0 && TN % 32 == 0 && TK % 8 == 0, "whole warps");
    static const int threads = (TM / RM) * (TN / RN), LA = TM + PAD, LB = TN + PAD;

    static __device__ __forceinline__ int first_row() { return threadIdx.x / TN * 4 * RM; }
    static __device__ __forceinline__ int first_column() { return threadIdx.x % TN / 32 * 32; }
    static __device__ __forceinline__ int row(int i) { return first_row() + i / 2 * 8 + threadIdx.x % 4 * 2 + i % 2; }
    static __device__ __forceinline__ int column() { return first_column() + threadIdx.x % 32 / 4 * 4; }
    static __device__ __forceinline__ int place(int n) { return n / 32 * 32 + n / 2 % 2 * 16 + n % 2 * 8 + n / 4 % 8; }

    static __device__ __forceinline__ void multiply(const float* A, const float* B, float (&sum)[RM][RN]) {
        const int g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
#pragma unroll
        for (int k = 0; k < TK; k += 8) {
            const float* a = A + (k + t) * LA + first_row() + g;
            const float* b = B + (k + t) * LB + first_column() + g;
#pragma unroll
            for (int j = 0; j < 4; j += 2) {
                const float columns[4] = {b[8 * j], b[8 * j + 8], b[4 * LB + 8 * j], b[4 * LB + 8 * j + 8]};
#pragma unroll
                for (int i = 0; i < RM; i += 2) {
                    const float rows[2] = {a[4 * i], a[4 * LA + 4 * i]};
                    multiply_add(sum[i][j], sum[i + 1][j], sum[i][j + 1], sum[i + 1][j + 1], columns, rows);
                }
            }
        }
    }
};

#endif

// --- Matrix products ----------------------------------------------------------------------------------------------
//
// C (M, N) = A (M, K) B (K, N) + bias (N,). A_ROWS says that A lies in memory as (M, K), else as (K, M); B_ROWS likewise
// (K, N), else (N, K). row_sums (M,) are the sums of A over K: the bias gradient of a linear layer comes with dW.

template <int T, int RM, int RN, bool A_ROWS, bool B_ROWS>
__device__ __forceinline__ void product(
    float* As, float* Bs, const float* A, const float* B, const float* bias, float* C, float* row_sums,
    int M, int N, int K, int has_bias, int wants_sums) {
    const int TK = 16;
    typedef Tile<T, T, TK, RM, RN> Shape;
    const int columns = (N + T - 1) / T, m0 = blockIdx.x / columns * T, n0 = blockIdx.x % columns * T;
    const bool sums_here = wants_sums && n0 == 0 && threadIdx.x < T;
    float sum[RM][RN] = {}, row_sum = 0;
    for (int k0 = 0; k0 < K; k0 += TK) {
        for (int i = threadIdx.x; i < T * TK; i += Shape::threads) {
            const int m = A_ROWS ? i / TK : i % T, k = A_ROWS ? i % TK : i / T;
            const bool inside = m0 + m < M && k0 + k < K;
            const long long at = A_ROWS ? (long long)(m0 + m) * K + k0 + k : (long long)(k0 + k) * M + m0 + m;
            As[k * Shape::LA + m] = inside ? rounded(A[at]) : 0;
        }
        for (int i = threadIdx.x; i < T * TK; i += Shape::threads) {
            const int n = B_ROWS ? i % T : i / TK, k = B_ROWS ? i / T : i % TK;
            const bool inside = n0 + n < N && k0 + k < K;
            const long long at = B_ROWS ? (long long)(k0 + k) * N + n0 + n : (long long)(n0 + n) * K + k0 + k;
            Bs[k * Shape::LB + Shape::place(n)] = inside ? rounded(B[at]) : 0;
        }
        __syncthreads();
        Shape::multiply(As, Bs, sum);
        if (sums_here)
            for (int k = 0; k < TK; k++) row_sum += As[k * Shape::LA + threadIdx.x];
        __syncthreads();
    }
    for (int i = 0; i < RM; i++)
        for (int j = 0; j < RN; j++) {
            const int m = m0 + Shape::row(i), n = n0 + Shape::column() + j;
            if (m < M && n < N) C[(long long)m * N + n] = has_bias ? sum[i][j] + bias[n] : sum[i][j];
        }
    if (sums_here && m0 + (int)threadIdx.x < M) row_sums[m0 + threadIdx.x] = row_sum;
}

// Grid (ceil(N/T) ceil(M/T)), tile by tile along a row: the other dimensions of a grid end at 65,535. T^2 / (RM RN) threads.
#define PRODUCT(NAME, T, RM, RN, A_ROWS, B_ROWS) \
    extern "C" __global__ void __launch_bounds__(256) NAME( \
        const float* A, const float* B, const float* bias, float* C, float* row_sums, \
        int M, int N, int K, int has_bias, int wants_sums) { \
        SHARED_TILE(As, 16, T); \
        SHARED_TILE(Bs, 16, T); \
        product<T, RM, RN, A_ROWS, B_ROWS>(As, Bs, A, B, bias, C, row_sums, M, N, K, has_bias, wants_sums); \
    }
const int SMALL = TF32 ? 32 : 16, SMALL_RM = TF32 ? 2 : 1, SMALL_RN = TF32 ? 4 : 1;
PRODUCT(product_nn_small, SMALL, SMALL_RM, SMALL_RN, true, true)
PRODUCT(product_nt_small, SMALL, SMALL_RM, SMALL_RN, true, false)
PRODUCT(product_tn_small, SMALL, SMALL_RM, SMALL_RN, false, true)
PRODUCT(product_nn_large, 64, 4, 4, true, true)
PRODUCT(product_nt_large, 64, 4, 4, true, false)
PRODUCT(product_tn_large, 64, 4, 4, false, true)

// --- Convolution as an implicit product -----------------------------------------------------------------------------
//
// The matrix of columns (im2col) is never written: its tile is gathered into shared memory. POOLED kernels stand for
// convolution + bias + ReLU + 2x2 max-pooling: pixels are then numbered so that the four outputs of a pooled pixel follow
// each other, a thread holds all four in registers, and only the pooled image and `argmax`, the number of the maximum in
// its window (row-major, the first of equals; DEAD where ReLU let nothing through), are written.

const int DEAD = 4;

// With tensor cores the compiler's own choice of registers spills some; one block a multiprocessor allows it all it needs.
#if TF32
#define CONV_BOUNDS __launch_bounds__(256, 1)
#else
#define CONV_BOUNDS __launch_bounds__(256)
#endif

#define SIZES int N, int C, int H, int W, int F, int KH, int KW, int SH, int SW, int DH, int DW, int top, int left, \
    int OH, int OW, int G
#define SIZES_GIVEN {N, C, H, W, F, KH, KW, SH, SW, DH, DW, top, left, OH, OW, G}

struct Convolution {
    int N, C, H, W, F, KH, KW, SH, SW, DH, DW, top, left, OH, OW, G;

    __device__ int channels() const { return C / G; }
    __device__ int filters() const { return F / G; }
    __device__ int depth() const { return channels() * KH * KW; }
};

struct Pixel {
    int n, row, column;  // n < 0: there is none
};

template <bool POOLED>
__device__ __forceinline__ long long output_pixels(const Convolution& s) {
    return POOLED ? 4LL * s.N * (s.OH / 2) * (s.OW / 2) : (long long)s.N * s.OH * s.OW;
}

template <bool POOLED>
__device__ __forceinline__ Pixel output_pixel(const Convolution& s, long long number) {
    Pixel p = {-1, 0, 0};
    if (number >= output_pixels<POOLED>(s)) return p;
    const int width = POOLED ? s.OW / 2 : s.OW, height = POOLED ? s.OH / 2 : s.OH;
    const long long whole = POOLED ? number / 4 : number;
    const unsigned area = (unsigned)height * width;
    const bool narrow = whole < (1LL << 32);  // as a rule, and divided many times faster
    p.n = narrow ? (unsigned)whole / area : (int)(whole / area);
    const int rest = narrow ? (unsigned)whole % area : (int)(whole % area), corner = (int)(number % 4);
    p.row = POOLED ? rest / width * 2 + corner / 2 : rest / width;
    p.column = POOLED ? rest % width * 2 + corner % 2 : rest % width;
    return p;
}

// dL/d(convolution's output) at one position: dy itself, or, POOLED, what the pooled gradient sends there.
template <bool POOLED>
__device__ __forceinline__ float output_gradient(
    const Convolution& s, const float* dy, const unsigned char* argmax, int n, int f, int oh, int ow) {
    if (!POOLED) return dy[(((long long)n * s.F + f) * s.OH + oh) * s.OW + ow];
    const int PH = s.OH / 2, PW = s.OW / 2;
    if (oh / 2 >= PH || ow / 2 >= PW) return 0;
    const long long at = (((long long)n * s.F + f) * PH + oh / 2) * PW + ow / 2;
    return argmax[at] == oh % 2 * 2 + ow % 2 ? dy[at] : 0;
}

// y (N, F, OH, OW) = filters x columns + bias; POOLED: y, argmax (N, F, PH, PW).
// Grid (ceil(pixels / TN), ceil(F/G / TM), G).
template <int TM, int TN, int RM, bool POOLED>
__device__ __forceinline__ void forward(
    float* As, float* Bs, const float* x, const float* w, const float* b, float* y, unsigned char* argmax,
    int has_bias, int wants_argmax, const Convolution& s) {
    const int TK = 16;
    typedef Tile<TM, TN, TK, RM, 4> Shape;
    const int each = TK * TN / Shape::threads;  // elements of the columns that a thread gathers, of one pixel
    const int FG = s.filters(), depth = s.depth(), g = blockIdx.z, f0 = blockIdx.y * TM;
    const long long p0 = (long long)blockIdx.x * TN;
    const int mine = threadIdx.x % TN, place_of_mine = Shape::place(mine), k_first = threadIdx.x / TN * each;
    const Pixel pixel = output_pixel<POOLED>(s, p0 + mine);
    const int h0 = pixel.row * s.SH - s.top, w0 = pixel.column * s.SW - s.left;
    const float* image = x + ((long long)pixel.n * s.C + (long long)g * s.channels()) * s.H * s.W;
    const float* filters = w + (long long)g * FG * depth;
    float sum[RM][4] = {};
    for (int k0 = 0; k0 < depth; k0 += TK) {
        for (int i = threadIdx.x; i < TM * TK; i += Shape::threads) {
            const int m = i / TK, k = i % TK;
            const bool inside = f0 + m < FG && k0 + k < depth;
            As[k * Shape::LA + m] = inside ? rounded(filters[(long long)(f0 + m) * depth + k0 + k]) : 0;
        }
        int k = k0 + k_first, kw = k % s.KW, kh = k / s.KW % s.KH, c = k / (s.KW * s.KH);
        for (int i = 0; i < each; i++, k++) {
            const int h = h0 + kh * s.DH, v = w0 + kw * s.DW;
            const bool inside = pixel.n >= 0 && k < depth && h >= 0 && h < s.H && v >= 0 && v < s.W;
            Bs[(k_first + i) * Shape::LB + place_of_mine] = inside ? rounded(image[(c * s.H + h) * s.W + v]) : 0;
            if (++kw == s.KW) {
                kw = 0;
                if (++kh == s.KH) kh = 0, c++;
            }
        }
        __syncthreads();
        Shape::multiply(As, Bs, sum);
        __syncthreads();
    }
    for (int i = 0; i < RM; i++) {
        const int f = f0 + Shape::row(i);
        if (f >= FG) continue;
        const float bias = has_bias ? b[g * FG + f] : 0;
        const long long first = p0 + Shape::column();
        if (POOLED) {
            const Pixel p = output_pixel<true>(s, first);
            if (p.n < 0) continue;
            int winner = 0;
            float best = sum[i][0];
            for (int j = 1; j < 4; j++)
                if (sum[i][j] > best || (is_nan(sum[i][j]) && !is_nan(best))) best = sum[i][j], winner = j;
            best += bias;
            const long long at = (((long long)p.n * s.F + g * FG + f) * (s.OH / 2) + p.row / 2) * (s.OW / 2) + p.column / 2;
            y[at] = best < 0 ? 0 : best;
            if (wants_argmax) argmax[at] = best > 0 ? winner : DEAD;
        } else {
            for (int j = 0; j < 4; j++) {
                const Pixel p = output_pixel<false>(s, first + j);
                if (p.n >= 0) y[(((long long)p.n * s.F + g * FG + f) * s.OH + p.row) * s.OW + p.column] = sum[i][j] + bias;
            }
        }
    }
}

#define CONV_FORWARD(NAME, TM, TN, RM, POOLED) \
    extern "C" __global__ void CONV_BOUNDS NAME( \
        const float* x, const float* w, const float* b, float* y, unsigned char* argmax, int has_bias, \
        int wants_argmax, SIZES) { \
        SHARED_TILE(As, 16, TM); \
        SHARED_TILE(Bs, 16, TN); \
        const Convolution s = SIZES_GIVEN; \
        forward<TM, TN, RM, POOLED>(As, Bs, x, w, b, y, argmax, has_bias, wants_argmax, s); \
    }
CONV_FORWARD(conv_forward_8, 8, 128, 2, false)
CONV_FORWARD(conv_forward_16, 16, 128, 4, false)
CONV_FORWARD(conv_forward_64, 64, 64, 4, false)
CONV_FORWARD(conv_relu_pool_8, 8, 128, 2, true)
CONV_FORWARD(conv_relu_pool_16, 16, 128, 4, true)
CONV_FORWARD(conv_relu_pool_64, 64, 64, 4, true)

// dx (N, C, H, W): each input pixel gathers from the outputs whose windows saw it.
// Grid (ceil(N*H*W / TN), ceil(C/G / TM), G).
template <int TM, int TN, int RM, bool POOLED>
__device__ __forceinline__ void input_gradient(
    float* As, float* Bs, const float* dy, const unsigned char* argmax, const float* w, float* dx, const Convolution& s) {
    const int TK = 16;
    typedef Tile<TM, TN, TK, RM, 4> Shape;
    const int each = TK * TN / Shape::threads;
    const int CG = s.channels(), FG = s.filters(), area = s.KH * s.KW, depth = FG * area;
    const int g = blockIdx.z, c0 = blockIdx.y * TM;
    const long long p0 = (long long)blockIdx.x * TN, pixels = (long long)s.N * s.H * s.W;
    const int mine = threadIdx.x % TN, place_of_mine = Shape::place(mine), k_first = threadIdx.x / TN * each;
    const bool exists = p0 + mine < pixels;
    const int n = (int)((p0 + mine) / ((long long)s.H * s.W)), rest = (int)((p0 + mine) % ((long long)s.H * s.W));
    const int h = rest / s.W + s.top, v = rest % s.W + s.left;
    float sum[RM][4] = {};
    for (int k0 = 0; k0 < depth; k0 += TK) {
        for (int i = threadIdx.x; i < TM * TK; i += Shape::threads) {
            const int m = i / TK, k = k0 + i % TK;
            const bool inside = c0 + m < CG && k < depth;
            As[i % TK * Shape::LA + m] =
                inside ? rounded(w[((long long)(g * FG + k / area) * CG + c0 + m) * area + k % area]) : 0;
        }
        int k = k0 + k_first, kw = k % s.KW, kh = k / s.KW % s.KH, f = k / area;
        for (int i = 0; i < each; i++, k++) {
            const int above = h - kh * s.DH, before = v - kw * s.DW;
            const int oh = above / s.SH, ow = before / s.SW;
            const bool inside = exists && k < depth && above >= 0 && before >= 0 && oh * s.SH == above &&
                                ow * s.SW == before && oh < s.OH && ow < s.OW;
            Bs[(k_first + i) * Shape::LB + place_of_mine] =
                inside ? rounded(output_gradient<POOLED>(s, dy, argmax, n, g * FG + f, oh, ow)) : 0;
            if (++kw == s.KW) {
                kw = 0;
                if (++kh == s.KH) kh = 0, f++;
            }
        }
        __syncthreads();
        Shape::multiply(As, Bs, sum);
        __syncthreads();
    }
    for (int i = 0; i < RM; i++)
        for (int j = 0; j < 4; j++) {
            const int c = c0 + Shape::row(i);
            const long long p = p0 + Shape::column() + j, area_of_image = (long long)s.H * s.W;
            if (c < CG && p < pixels)
                dx[(p / area_of_image * s.C + g * CG + c) * area_of_image + p % area_of_image] = sum[i][j];
        }
}

#define CONV_INPUT_GRADIENT(NAME, TM, TN, RM, POOLED) \
    extern "C" __global__ void __launch_bounds__(256) NAME( \
        const float* dy, const unsigned char* argmax, const float* w, float* dx, SIZES) { \
        SHARED_TILE(As, 16, TM); \
        SHARED_TILE(Bs, 16, TN); \
        const Convolution s = SIZES_GIVEN; \
        input_gradient<TM, TN, RM, POOLED>(As, Bs, dy, argmax, w, dx, s); \
    }
CONV_INPUT_GRADIENT(conv_input_gradient_8, 8, 128, 2, false)
CONV_INPUT_GRADIENT(conv_input_gradient_16, 16, 128, 4, false)
CONV_INPUT_GRADIENT(conv_input_gradient_64, 64, 64, 4, false)
CONV_INPUT_GRADIENT(conv_relu_pool_input_gradient_8, 8, 128, 2, true)
CONV_INPUT_GRADIENT(conv_relu_pool_input_gradient_16, 16, 128, 4, true)
CONV_INPUT_GRADIENT(conv_relu_pool_input_gradient_64, 64, 64, 4, true)

// partial (splits, F, depth + 1): output gradients x columns over `each` pixels for a split. A row of ones below the
// columns makes the last element the bias gradient. Grid (ceil((depth + 1) / TN), ceil(F/G / TM), G * splits).
template <int TM, int TN, int RM, bool POOLED>
__device__ __forceinline__ void weight_gradient(
    float* As, float* Bs, const float* x, const float* dy, const unsigned char* argmax, float* partial,
    int splits, long long each, const Convolution& s) {
    const int TK = 32;
    typedef Tile<TM, TN, TK, RM, 4> Shape;
    const int FG = s.filters(), depth = s.depth();
    const int g = blockIdx.z / splits, split = blockIdx.z % splits, f0 = blockIdx.y * TM, k0 = blockIdx.x * TN;
    const long long last = min((split + 1) * each, output_pixels<POOLED>(s));
    const int mine = threadIdx.x % TK;
    float sum[RM][4] = {};
    for (long long p0 = split * each; p0 < last; p0 += TK) {
        const Pixel pixel = output_pixel<POOLED>(s, p0 + mine);
        const bool exists = p0 + mine < last;
        const int h0 = pixel.row * s.SH - s.top, w0 = pixel.column * s.SW - s.left;
        const float* image = x + ((long long)pixel.n * s.C + (long long)g * s.channels()) * s.H * s.W;
        for (int m = threadIdx.x / TK; m < TM; m += Shape::threads / TK) {
            const bool inside = exists && f0 + m < FG;
            const int f = g * FG + f0 + m;
            As[mine * Shape::LA + m] =
                inside ? rounded(output_gradient<POOLED>(s, dy, argmax, pixel.n, f, pixel.row, pixel.column)) : 0;
        }
#pragma unroll  // so that what depends on j alone is computed once
        for (int j = threadIdx.x / TK; j < TN; j += Shape::threads / TK) {
            const int k = k0 + j, kw = k % s.KW, kh = k / s.KW % s.KH, c = k / (s.KW * s.KH);
            const int h = h0 + kh * s.DH, v = w0 + kw * s.DW;
            const bool inside = exists && k < depth && h >= 0 && h < s.H && v >= 0 && v < s.W;
            Bs[mine * Shape::LB + Shape::place(j)] =
                inside ? rounded(image[(c * s.H + h) * s.W + v]) : exists && k == depth ? 1 : 0;
        }
        __syncthreads();
        Shape::multiply(As, Bs, sum);
        __syncthreads();
    }
    for (int i = 0; i < RM; i++)
        for (int j = 0; j < 4; j++) {
            const int f = f0 + Shape::row(i), k = k0 + Shape::column() + j;
            if (f < FG && k <= depth)
                partial[((long long)split * s.F + g * FG + f) * (depth + 1) + k] = sum[i][j];
        }
}

#define CONV_WEIGHT_GRADIENT(NAME, TM, TN, RM, POOLED) \
    extern "C" __global__ void CONV_BOUNDS NAME( \
        const float* x, const float* dy, const unsigned char* argmax, float* partial, int splits, long long each, SIZES) { \
        SHARED_TILE(As, 32, TM); \
        SHARED_TILE(Bs, 32, TN); \
        const Convolution s = SIZES_GIVEN; \
        weight_gradient<TM, TN, RM, POOLED>(As, Bs, x, dy, argmax, partial, splits, each, s); \
    }
CONV_WEIGHT_GRADIENT(conv_weight_gradient_8, 8, 32, TF32 ? 2 : 1, false)
CONV_WEIGHT_GRADIENT(conv_weight_gradient_16, 16, 64, 2, false)
CONV_WEIGHT_GRADIENT(conv_weight_gradient_64, 64, 64, 4, false)
CONV_WEIGHT_GRADIENT(conv_relu_pool_weight_gradient_8, 8, 32, TF32 ? 2 : 1, true)
CONV_WEIGHT_GRADIENT(conv_relu_pool_weight_gradient_16, 16, 64, 2, true)
CONV_WEIGHT_GRADIENT(conv_relu_pool_weight_gradient_64, 64, 64, 4, true)

// dw (F, depth) and db (F,) from the partial sums, split by split.
extern "C" __global__ void conv_weight_gradient_sum(
    const float* partial, float* dw, float* db, int splits, int F, int depth) {
    const long long size = (long long)F * (depth + 1);
    FOR_EACH(i, size) {
        float sum = 0;
        for (int split = 0; split < splits; split++) sum += partial[split * size + i];
        const long long f = i / (depth + 1), k = i % (depth + 1);
        if (k == depth) db[f] = sum;
        else dw[f * depth + k] = sum;
    }
}

// --- Columns in memory, for products by cuBLAS ----------------------------------------------------------------------

// columns (N*OH*OW, C*KH*KW), ordered channel, row, column.
extern "C" __global__ void im2col(const float* x, float* columns, SIZES) {
    const int depth = C * KH * KW;
    FOR_EACH(i, (long long)N * OH * OW * depth) {
        const int k = (int)(i % depth), kw = k % KW, kh = k / KW % KH, c = k / (KW * KH);
        const long long p = i / depth;
        const int ow = (int)(p % OW), oh = (int)(p / OW % OH);
        const int h = oh * SH - top + kh * DH, v = ow * SW - left + kw * DW;
        const bool inside = h >= 0 && h < H && v >= 0 && v < W;
        columns[i] = inside ? x[((p / ((long long)OH * OW) * C + c) * H + h) * W + v] : 0;
    }
}

// x (N, C, H, W): each pixel sums the elements of the columns that were copied from it.
extern "C" __global__ void col2im(const float* columns, float* x, SIZES) {
    const int depth = C * KH * KW;
    FOR_EACH(i, (long long)N * C * H * W) {
        const int v = (int)(i % W) + left, h = (int)(i / W % H) + top, c = (int)(i / ((long long)H * W) % C);
        const long long n = i / ((long long)H * W * C);
        float sum = 0;
        for (int kh = 0; kh < KH; kh++)
            for (int kw = 0; kw < KW; kw++) {
                const int above = h - kh * DH, before = v - kw * DW, oh = above / SH, ow = before / SW;
                if (above >= 0 && before >= 0 && oh * SH == above && ow * SW == before && oh < OH && ow < OW)
                    sum += columns[((n * OH + oh) * OW + ow) * depth + (c * KH + kh) * KW + kw];
            }
        x[i] = sum;
    }
}

// y (N, S, R) = x (N, R, S) with each page transposed, plus bias (S,). Grid (ceil(S/32), rows, pages), 32 x 8 threads; the
// blocks of y walk over the R rows, those of z over the N pages. Rows of the tile are one longer, so that its columns lie
// in 32 banks.
extern "C" __global__ void transpose_pages(
    const float* x, const float* bias, float* y, int N, int R, int S, int has_bias) {
    __shared__ float tile[32][33];
    for (int n = blockIdx.z; n < N; n += gridDim.z)
        for (long long r0 = 32LL * blockIdx.y; r0 < R; r0 += 32LL * gridDim.y) {
            for (int i = threadIdx.y; i < 32; i += 8) {
                const long long r = r0 + i;
                const int c = blockIdx.x * 32 + threadIdx.x;
                if (r < R && c < S) tile[i][threadIdx.x] = x[((long long)n * R + r) * S + c];
            }
            __syncthreads();
            for (int i = threadIdx.y; i < 32; i += 8) {
                const long long r = r0 + threadIdx.x;
                const int c = blockIdx.x * 32 + i;
                if (r < R && c < S) y[((long long)n * S + c) * R + r] = tile[threadIdx.x][i] + (has_bias ? bias[c] : 0);
            }
            __syncthreads();
        }
}

// --- Pooling ------------------------------------------------------------------------------------------------------
//
// Images are (P, H, W) with P = N*C planes. `argmax` is the number of the maximum in its window, row-major; one byte up to
// 255 elements, else an int. A window wholly outside the image has argmax KH*KW, which no pixel answers to.

#define POOL_SIZES long long P, int H, int W, int KH, int KW, int SH, int SW, int DH, int DW, int top, int left, \
    int OH, int OW

#define MAX_POOL(NAME, INDEX) \
    extern "C" __global__ void NAME(const float* x, float* y, INDEX* argmax, int wants_argmax, POOL_SIZES) { \
        FOR_EACH(i, P * OH * OW) { \
            const int h0 = (int)(i / OW % OH) * SH - top, w0 = (int)(i % OW) * SW - left; \
            const float* image = x + i / ((long long)OH * OW) * H * W; \
            float best = -infinity(); \
            int winner = KH * KW; \
            for (int k = 0; k < KH * KW; k++) { \
                const int h = h0 + k / KW * DH, v = w0 + k % KW * DW; \
                if (h < 0 || h >= H || v < 0 || v >= W) continue; \
                const float pixel = image[(long long)h * W + v]; \
                if (winner == KH * KW || pixel > best || (is_nan(pixel) && !is_nan(best))) best = pixel, winner = k; \
            } \
            y[i] = best; \
            if (wants_argmax) argmax[i] = winner; \
        } \
    }
MAX_POOL(max_pool_byte, unsigned char)
MAX_POOL(max_pool_int, int)

// Each pixel sums over the windows that saw it, in the order of their elements.
#define FOR_EACH_WINDOW_OVER(h, v) \
    for (int k = 0; k < KH * KW; k++) \
        if (const int above = (h) + top - k / KW * DH, before = (v) + left - k % KW * DW; \
            above >= 0 && before >= 0 && above % SH == 0 && before % SW == 0 && above / SH < OH && before / SW < OW)

#define MAX_POOL_GRADIENT(NAME, INDEX) \
    extern "C" __global__ void NAME(const float* dy, const INDEX* argmax, float* dx, POOL_SIZES) { \
        FOR_EACH(i, P * H * W) { \
            const int h = (int)(i / W % H), v = (int)(i % W); \
            const long long plane = i / ((long long)H * W) * OH * OW; \
            float sum = 0; \
            FOR_EACH_WINDOW_OVER(h, v) { \
                const long long at = plane + (long long)(above / SH) * OW + before / SW; \
                if (argmax[at] == k) sum += dy[at]; \
            } \
            dx[i] = sum; \
        } \
    }
MAX_POOL_GRADIENT(max_pool_gradient_byte, unsigned char)
MAX_POOL_GRADIENT(max_pool_gradient_int, int)

// y = sum over the window / divisor, or, where counted, / (rows[oh] * columns[ow]).
extern "C" __global__ void average_pool(
    const float* x, const float* rows, const float* columns, float* y, float divisor, int counted, POOL_SIZES) {
    FOR_EACH(i, P * OH * OW) {
        const int oh = (int)(i / OW % OH), ow = (int)(i % OW);
        const float* image = x + i / ((long long)OH * OW) * H * W;
        float sum = 0;
        for (int k = 0; k < KH * KW; k++) {
            const int h = oh * SH - top + k / KW * DH, v = ow * SW - left + k % KW * DW;
            if (h >= 0 && h < H && v >= 0 && v < W) sum += image[(long long)h * W + v];
        }
        y[i] = sum / (counted ? rows[oh] * columns[ow] : divisor);
    }
}

extern "C" __global__ void average_pool_gradient(
    const float* dy, const float* rows, const float* columns, float* dx, float divisor, int counted, POOL_SIZES) {
    FOR_EACH(i, P * H * W) {
        const int h = (int)(i / W % H), v = (int)(i % W);
        const long long plane = i / ((long long)H * W) * OH * OW;
        float sum = 0;
        FOR_EACH_WINDOW_OVER(h, v) {
            const int oh = above / SH, ow = before / SW;
            sum += dy[plane + (long long)oh * OW + ow] / (counted ? rows[oh] * columns[ow] : divisor);
        }
        dx[i] = sum;
    }
}

// --- Reductions over a channel --------------------------------------------------------------------------------------
//
// Images are (N, C, Q) with Q pixels; a channel's N*Q values are cut among `splits` blocks, grid (splits, C), whose
// results the second kernel of each pair merges in order. Blocks have REDUCE threads.

const int REDUCE = 256;

struct Moments {  // of some values: their count, their mean and the sum of squared distances from it
    float count, mean, squares;
};

// Chan, Golub & LeVeque 1979: exact where the difference of two large sums of squares would not be.
__device__ __forceinline__ Moments merged(Moments a, Moments b) {
    const float count = a.count + b.count;
    if (count == 0) return a;
    const float distance = b.mean - a.mean, share = b.count / count;
    Moments m = {count, a.mean + distance * share, a.squares + b.squares + distance * distance * a.count * share};
    return m;
}

// partial (splits, C, 3): count, mean and squares of each channel in each split.
extern "C" __global__ void __launch_bounds__(256) channel_moments(
    const float* x, float* partial, int N, int C, long long Q, long long each) {
    __shared__ float counts[REDUCE];
    __shared__ float means[REDUCE];
    __shared__ float squares[REDUCE];
    const int c = blockIdx.y, me = threadIdx.x;
    const long long first = blockIdx.x * each, last = min(first + each, N * Q);
    Moments mine = {0, 0, 0};
    for (long long i = first + me; i < last; i += REDUCE) {
        const Moments one = {1, x[(i / Q * C + c) * Q + i % Q], 0};
        mine = merged(mine, one);
    }
    counts[me] = mine.count, means[me] = mine.mean, squares[me] = mine.squares;
    for (int half = REDUCE / 2; half > 0; half /= 2) {
        __syncthreads();
        if (me < half) {
            const Moments a = {counts[me], means[me], squares[me]};
            const Moments b = {counts[me + half], means[me + half], squares[me + half]};
            const Moments m = merged(a, b);
            counts[me] = m.count, means[me] = m.mean, squares[me] = m.squares;
        }
    }
    if (me == 0) {
        float* out = partial + ((long long)blockIdx.x * C + c) * 3;
        out[0] = counts[0], out[1] = means[0], out[2] = squares[0];
    }
}

// mean, var and factor = 1 / sqrt(var + eps), each (C,).
extern "C" __global__ void channel_moments_merge(
    const float* partial, float* mean, float* var, float* factor, int splits, int C, float eps) {
    FOR_EACH(c, C) {
        Moments all = {0, 0, 0};
        for (int split = 0; split < splits; split++) {
            const float* one = partial + ((long long)split * C + c) * 3;
            const Moments m = {one[0], one[1], one[2]};
            all = merged(all, m);
        }
        mean[c] = all.mean;
        var[c] = all.squares / all.count;
        factor[c] = 1 / sqrtf(all.squares / all.count + eps);
    }
}

// running = (1 - momentum) running + momentum now, with the unbiased variance: `unbiased` is n / (n - 1).
extern "C" __global__ void update_running(
    float* running_mean, float* running_var, const float* mean, const float* var, float unbiased, float momentum, int C) {
    FOR_EACH(c, C) {
        running_mean[c] = (1 - momentum) * running_mean[c] + momentum * mean[c];
        running_var[c] = (1 - momentum) * running_var[c] + momentum * (var[c] * unbiased);
    }
}

// y = (x - mean) factor weight + bias + residual, or of that the ReLU.
extern "C" __global__ void channel_normalise(
    const float* x, const float* mean, const float* factor, const float* weight, const float* bias,
    const float* residual, float* y, int has_weight, int has_bias, int has_residual, int relu, int N, int C,
    long long Q) {
    FOR_EACH(i, (long long)N * C * Q) {
        const int c = (int)(i / Q % C);
        float value = (x[i] - mean[c]) * factor[c];
        if (has_weight) value *= weight[c];
        if (has_bias) value += bias[c];
        if (has_residual) value += residual[i];
        y[i] = relu && value < 0 ? 0 : value;  // NaN stays NaN
    }
}

// dL/d(what the ReLU was given): dy where y is positive; without ReLU dy itself.
__device__ __forceinline__ float before_relu(const float* dy, const float* y, int relu, long long i) {
    return relu && !(y[i] > 0) ? 0 : dy[i];
}

// partial (splits, C, 2): the sums of the gradient before the ReLU, and of that times the normalised x.
extern "C" __global__ void __launch_bounds__(256) channel_sums(
    const float* dy, const float* y, const float* x, const float* mean, const float* factor, float* partial, int relu,
    int N, int C, long long Q, long long each) {
    __shared__ float sums[REDUCE];
    __shared__ float products[REDUCE];
    const int c = blockIdx.y, me = threadIdx.x;
    const long long first = blockIdx.x * each, last = min(first + each, N * Q);
    float sum = 0, product = 0;
    for (long long i = first + me; i < last; i += REDUCE) {
        const long long at = (i / Q * C + c) * Q + i % Q;
        const float gradient = before_relu(dy, y, relu, at);
        sum += gradient;
        product += gradient * ((x[at] - mean[c]) * factor[c]);
    }
    sums[me] = sum, products[me] = product;
    for (int half = REDUCE / 2; half > 0; half /= 2) {
        __syncthreads();
        if (me < half) sums[me] += sums[me + half], products[me] += products[me + half];
    }
    if (me == 0) {
        float* out = partial + ((long long)blockIdx.x * C + c) * 2;
        out[0] = sums[0], out[1] = products[0];
    }
}

// sums (2, C): the sums over the splits, which are dL/dbias and dL/dweight.
extern "C" __global__ void channel_sums_merge(const float* partial, float* sums, int splits, int C) {
    FOR_EACH(c, C) {
        float sum = 0, product = 0;
        for (int split = 0; split < splits; split++) {
            sum += partial[((long long)split * C + c) * 2];
            product += partial[((long long)split * C + c) * 2 + 1];
        }
        sums[c] = sum;
        sums[C + c] = product;
    }
}

// dx = factor weight (g - mean(g) - normal mean(g normal)), g the gradient before the ReLU, with its sums (2, C) and share = 1
// over the count of values; and g itself where it is wanted.
extern "C" __global__ void channel_normalise_gradient(
    const float* dy, const float* y, const float* x, const float* mean, const float* factor, const float* weight,
    const float* sums, float* dx, float* g, float share, int has_weight, int relu, int wants_g, int N, int C,
    long long Q) {
    FOR_EACH(i, (long long)N * C * Q) {
        const int c = (int)(i / Q % C);
        const float gradient = before_relu(dy, y, relu, i), normal = (x[i] - mean[c]) * factor[c];
        const float scale = has_weight ? factor[c] * weight[c] : factor[c];
        dx[i] = scale * (gradient - share * sums[c] - normal * (share * sums[C + c]));
        if (wants_g) g[i] = gradient;
    }
}

// --- Activation and loss ------------------------------------------------------------------------------------------

extern "C" __global__ void relu(const float* x, float* y, long long count) {
    FOR_EACH(i, count) y[i] = x[i] < 0 ? 0 : x[i];  // NaN stays NaN
}

extern "C" __global__ void relu_gradient(const float* dy, const float* y, float* dx, long long count) {
    FOR_EACH(i, count) dx[i] = y[i] > 0 ? dy[i] : 0;
}

__device__ __forceinline__ float warp_max(float value) {
    for (int step = 16; step > 0; step /= 2) value = fmaxf(value, __shfl_xor_sync(0xffffffffu, value, step));
    return value;
}

__device__ __forceinline__ float warp_sum(float value) {
    for (int step = 16; step > 0; step /= 2) value += __shfl_xor_sync(0xffffffffu, value, step);
    return value;
}

// losses (R,) = -log softmax(logits)[target], gradient (R, K) = softmax - one_hot: a warp for each row, 4 in a block.
// A label below 0 or of K and above gives NaN: the device cannot raise.
extern "C" __global__ void cross_entropy(
    const float* logits, const long long* target, float* losses, float* gradient, int R, int K, int wants_gradient) {
    const int row = blockIdx.x * 4 + threadIdx.x / 32, lane = threadIdx.x % 32;
    if (row >= R) return;  // with its whole warp
    const float* z = logits + (long long)row * K;
    float most = -infinity();
    for (int k = lane; k < K; k += 32) most = fmaxf(most, z[k]);
    most = warp_max(most);
    float total = 0;
    for (int k = lane; k < K; k += 32) total += expf(z[k] - most);
    total = warp_sum(total);
    const long long label = target[row];
    const bool valid = label >= 0 && label < K;
    if (lane == 0) losses[row] = valid ? logf(total) - (z[label] - most) : not_a_number();
    if (wants_gradient)
        for (int k = lane; k < K; k += 32)
            gradient[(long long)row * K + k] = valid ? expf(z[k] - most) / total - (k == label) : not_a_number();
}

// total = sum of the values / divisor. One block of REDUCE threads.
extern "C" __global__ void __launch_bounds__(256) mean_loss(
    const float* losses, float* total, long long count, float divisor) {
    __shared__ float sums[REDUCE];
    const int me = threadIdx.x;
    float sum = 0;
    for (long long i = me; i < count; i += REDUCE) sum += losses[i];
    sums[me] = sum;
    for (int half = REDUCE / 2; half > 0; half /= 2) {
        __syncthreads();
        if (me < half) sums[me] += sums[me + half];
    }
    if (me == 0) *total = sums[0] / divisor;
}

// y = x * (*factor / divisor).
extern "C" __global__ void scale(const float* x, const float* factor, float* y, float divisor, long long count) {
    const float by = *factor / divisor;
    FOR_EACH(i, count) y[i] = x[i] * by;
}

// --- Random numbers -------------------------------------------------------------------------------------------------

// Philox 4x32-10 (Salmon, Moraes, Dror & Shaw 2011): four random words of a counter and a key.
__device__ __forceinline__ uint4 philox(uint4 c, uint2 key) {
    for (int round = 0; round < 10; round++) {
        const unsigned high0 = __umulhi(0xD2511F53u, c.x), low0 = 0xD2511F53u * c.x;
        const unsigned high1 = __umulhi(0xCD9E8D57u, c.z), low1 = 0xCD9E8D57u * c.z;
        c = make_uint4(high1 ^ c.y ^ key.x, low1, high0 ^ c.w ^ key.y, low0);
        key = make_uint2(key.x + 0x9E3779B9u, key.y + 0xBB67AE85u);
    }
    return c;
}

// The state of a draw, (seed, number of the draw), on the device: a captured step reads what is there when it is replayed.
extern "C" __global__ void set_draw(unsigned long long* state, unsigned long long seed, unsigned long long draw) {
    if (blockIdx.x == 0 && threadIdx.x == 0) state[0] = seed, state[1] = draw;
}

extern "C" __global__ void next_draw(unsigned long long* state) {
    if (blockIdx.x == 0 && threadIdx.x == 0) state[1] += 1;
}

// mask = 0 with probability p, else scale. Four elements share one counter: (element / 4, draw).
extern "C" __global__ void dropout_mask(
    const unsigned long long* state, float* mask, float p, float scale, long long count) {
    const uint2 key = make_uint2((unsigned)state[0], (unsigned)(state[0] >> 32));
    const unsigned long long draw = state[1];
    FOR_EACH(i, (count + 3) / 4) {
        const uint4 r = philox(make_uint4((unsigned)i, (unsigned)(i >> 32), (unsigned)draw, (unsigned)(draw >> 32)), key);
        const unsigned words[4] = {r.x, r.y, r.z, r.w};
        for (int j = 0; j < 4 && 4 * i + j < count; j++)
            mask[4 * i + j] = (words[j] >> 8) * 5.9604644775390625e-8f >= p ? scale : 0;  // 24 bits times 2^-24
    }
}

// --- Optimisers -----------------------------------------------------------------------------------------------------
//
// One launch over a flat buffer. What may differ from step to step is an argument, or in a captured step read from the
// device, where `captured` is set. Nothing changes where `conditional` is set and *condition is false.

extern "C" __global__ void set_numbers(double* target, double first, double second, int count) {
    if (blockIdx.x != 0 || threadIdx.x != 0) return;
    target[0] = first;
    if (count > 1) target[1] = second;
}

extern "C" __global__ void sgd(
    float* p, const float* g, float* velocity, const double* lr_at, const double* momentum_at, const bool* condition,
    double lr, double momentum, int captured, int has_velocity, int conditional, int nesterov, float weight_decay,
    long long count) {
    if (conditional && !*condition) return;
    const float rate = (float)(captured ? *lr_at : lr), kept = (float)(captured ? *momentum_at : momentum);
    FOR_EACH(i, count) {
        float gradient = g[i] + weight_decay * p[i];
        if (has_velocity) {
            const float moved = kept * velocity[i] + gradient;
            velocity[i] = moved;
            gradient = nesterov ? gradient + kept * moved : moved;
        }
        p[i] -= rate * gradient;
    }
}

// Counts an update in counts (S,), and writes what it needs, numbers (5,): the learning rate; that over 1 - beta1^t; the root
// of 1 - beta2^t; beta1; 1 - beta1.
extern "C" __global__ void begin_adam(
    double* counts, const double* lr_at, const double* beta1_at, const bool* condition, float* numbers, double lr,
    double beta1, double beta2, int captured, int conditional, int S) {
    if (blockIdx.x != 0 || threadIdx.x != 0 || (conditional && !*condition)) return;
    const double t = counts[0] + 1;
    for (int s = 0; s < S; s++) counts[s] = t;
    if (captured) lr = *lr_at, beta1 = *beta1_at;
    numbers[0] = (float)lr;
    numbers[1] = (float)(lr / (1 - pow(beta1, t)));
    numbers[2] = (float)sqrt(1 - pow(beta2, t));
    numbers[3] = (float)beta1;
    numbers[4] = (float)(1 - beta1);
}

extern "C" __global__ void adam(
    float* p, const float* g, float* m, float* v, const float* numbers, const bool* condition, int conditional,
    float beta2, float rest2, float eps, float weight_decay, int decoupled, long long count) {
    if (conditional && !*condition) return;
    const float beta1 = numbers[3], rest1 = numbers[4];
    FOR_EACH(i, count) {
        const float start = decoupled ? p[i] * (1 - numbers[0] * weight_decay) : p[i];
        const float gradient = decoupled ? g[i] : g[i] + weight_decay * p[i];
        m[i] = beta1 * m[i] + rest1 * gradient;
        v[i] = beta2 * v[i] + rest2 * (gradient * gradient);
        p[i] = start - numbers[1] * m[i] / (sqrtf(v[i]) / numbers[2] + eps);
    }
}

// Copies up to twelve arrays, the gradients of parameters into their flat buffer say; those of count 0 are absent.
// Grid (blocks, 12).
#define PIECE(i) const float* from##i, float* to##i, long long count##i
extern "C" __global__ void copy_pieces(
    PIECE(0), PIECE(1), PIECE(2), PIECE(3), PIECE(4), PIECE(5), PIECE(6), PIECE(7), PIECE(8), PIECE(9), PIECE(10),
    PIECE(11)) {
    const float* const from[12] = {from0, from1, from2, from3, from4, from5, from6, from7, from8, from9, from10, from11};
    float* const to[12] = {to0, to1, to2, to3, to4, to5, to6, to7, to8, to9, to10, to11};
    const long long counts[12] = {count0, count1, count2, count3, count4, count5, count6, count7, count8, count9, count10,
                                  count11};
    const int piece = blockIdx.y;
    FOR_EACH(i, counts[piece]) to[piece][i] = from[piece][i];
}

// --- Data -----------------------------------------------------------------------------------------------------------

// y (B, C, Q) = images[indices] * scale + shift, of uint8 images (M, C, Q). Below 0 counts from the end, as in NumPy;
// an index that is not there gives NaN.
extern "C" __global__ void gather_normalised(
    const unsigned char* images, const long long* indices, const float* scale, const float* shift, float* y,
    long long M, int B, int C, long long Q) {
    FOR_EACH(i, (long long)B * C * Q) {
        const int c = (int)(i / Q % C);
        long long index = indices[i / (Q * C)];
        if (index < 0) index += M;
        y[i] = index >= 0 && index < M ? images[(index * C + c) * Q + i % Q] * scale[c] + shift[c] : not_a_number();
    }
}

// The next batch of an epoch: the images, normalised, y (B, C, Q), and the labels, taken (B,), at order[*seen],
// order[*seen + 1] ... Beyond the end of the order (length,), and where it names no image, NaN and -1. The count of images
// seen is that of update_metrics, so that the batch after is the next.
extern "C" __global__ void gather_next(
    const unsigned char* images, const long long* labels, const long long* order, const double* seen,
    const float* scale, const float* shift, float* y, long long* taken, long long M, long long length, int B, int C,
    long long Q) {
    const long long first = (long long)*seen;
    FOR_EACH(i, (long long)B * C * Q) {
        const int c = (int)(i / Q % C);
        const long long b = i / (Q * C), index = first + b < length ? order[first + b] : -1;
        const bool there = index >= 0 && index < M;
        if (i % (Q * C) == 0) taken[b] = there ? labels[index] : -1;
        y[i] = there ? images[(index * C + c) * Q + i % Q] * scale[c] + shift[c] : not_a_number();
    }
}

// Adds a batch of mean loss *loss and logits (R, K) to sums (4,): sum of losses, right answers, images, the last loss.
// The answer is the first of the highest logits, and NaN the highest of all, as in argmax. One block of REDUCE threads.
extern "C" __global__ void __launch_bounds__(256) update_metrics(
    const float* loss, const float* logits, const long long* labels, double* sums, int R, int K) {
    __shared__ int right[REDUCE];
    const int me = threadIdx.x;
    int count = 0;
    for (int row = me; row < R; row += REDUCE) {
        const float* z = logits + (long long)row * K;
        int best = 0;
        for (int k = 1; k < K; k++)
            if (z[k] > z[best] || (z[k] != z[k] && z[best] == z[best])) best = k;
        count += best == labels[row];
    }
    right[me] = count;
    for (int half = REDUCE / 2; half > 0; half /= 2) {
        __syncthreads();
        if (me < half) right[me] += right[me + half];
    }
    if (me == 0) {
        sums[0] += (double)*loss * R;
        sums[1] += right[0];
        sums[2] += R;
        sums[3] = *loss;
    }
}
