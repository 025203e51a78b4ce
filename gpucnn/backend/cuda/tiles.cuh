// Tiles of matrix products.
//
// A block computes a TM x TN tile of a product; a thread RM x RN elements of it, in registers: at row(i), column() + j. The
// operands pass through shared memory TK rows at a time, each element rounded(): A as [TK][TM], B as [TK][TN] with column n
// at place(n). Rows are PAD elements longer, so that what a warp reads at once lies in different banks, and still start at
// 16 bytes, so that four elements can be read at once.

const int PAD = TF32 ? 8 : 4;
#define SHARED_TILE(NAME, ROWS, COLUMNS) __shared__ __align__(16) float NAME[(ROWS) * ((COLUMNS) + PAD)]

// With tensor cores the compiler's own choice of registers spills some; one block a multiprocessor allows it all it needs.
#if TF32
#define TILE_BOUNDS __launch_bounds__(256, 1)
#else
#define TILE_BOUNDS __launch_bounds__(256)
#endif

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

// A thread computes 8 x 8 elements (4 x 8 of a tile of 32 rows and columns), in groups of four: eight reads of four elements
// for 64 multiplications, from other banks than its neighbours.
template <int TM, int TN, int TK>
struct WideTile {
    static const int rows = TM * TN > 32 * 32 ? 8 : 4, columns = 8, groups = rows / 4;
    static const int threads = (TM / rows) * (TN / columns), LA = TM + PAD, LB = TN + PAD;

    static __device__ __forceinline__ int row(int i) {
        return i / 4 * (TM / groups) + threadIdx.x / (TN / columns) * 4 + i % 4;
    }
    static __device__ __forceinline__ int column(int j) {
        return j / 4 * (TN / 2) + threadIdx.x % (TN / columns) * 4 + j % 4;
    }
    static __device__ __forceinline__ int place(int n) { return n; }

    static __device__ __forceinline__ void multiply(const float* A, const float* B, float (&sum)[rows][columns]) {
#pragma unroll
        for (int k = 0; k < TK; k++) {
            float a[rows], b[columns];
#pragma unroll
            for (int i = 0; i < rows; i++) a[i] = A[k * LA + row(i)];
#pragma unroll
            for (int j = 0; j < columns; j++) b[j] = B[k * LB + column(j)];
#pragma unroll
            for (int i = 0; i < rows; i++)
#pragma unroll
                for (int j = 0; j < columns; j++) sum[i][j] += a[i] * b[j];
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

// The same with a wide tile: a warp of a high one computes 64 x 32 elements.
template <int TM, int TN, int TK>
struct WideTile : Tile<TM, TN, TK, TM < 32 ? 4 : TM < 64 ? 8 : 16, 4> {
    static const int rows = TM < 32 ? 4 : TM < 64 ? 8 : 16, columns = 4;
    static __device__ __forceinline__ int column(int j) { return Tile<TM, TN, TK, rows, 4>::column() + j; }
};

#endif
