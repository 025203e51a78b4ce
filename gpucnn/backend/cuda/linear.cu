// Matrix products.
//
// C (M, N) = A (M, K) B (K, N) + bias (N,). A_ROWS says that A lies in memory as (M, K), else as (K, M); B_ROWS likewise
// (K, N), else (N, K). row_sums (M,) are the sums of A over K: the bias gradient of a linear layer comes with dW.
//
// A tile has T x T elements. The rows of a block's threads (threadIdx.y) are slices: each sums every SLICES-th DEPTH of K, for
// products with too few tiles to fill a GPU, and the slices are added in order. While a depth is multiplied the next one is on its
// way from memory: shared memory holds two for each slice.

template <int T>
struct Depth {  // that is summed together
    static const int value = T == 128 || (!TF32 && T == 32) ? 16 : 8;  // deeper, some registers would spill
};

template <int T, int SLICES, bool A_ROWS, bool B_ROWS>
__device__ __forceinline__ void product(
    float* As, float* Bs, const stored* A, const stored* B, const stored* bias, stored* C, stored* row_sums,
    int M, int N, int K, int has_bias, int wants_sums) {
    const int DEPTH = Depth<T>::value;
    typedef WideTile<T, T, DEPTH> Shape;
    static_assert(Shape::threads >= T && SLICES / 2 * T * (T + 1) <= SLICES * 2 * DEPTH * (T + PAD), "room for sums");
    const int columns = (N + T - 1) / T, m0 = blockIdx.x / columns * T, n0 = blockIdx.x % columns * T;
    const int each = T * DEPTH / Shape::threads, me = threadIdx.x, slice = threadIdx.y;
    const bool sums_here = wants_sums && n0 == 0 && me < T;
    float sum[Shape::rows][Shape::columns] = {}, a[each], b[each], row_sum = 0;
    int k0 = slice * DEPTH, buffer = slice * 2;
    const auto load = [&] {
#pragma unroll
        for (int i = 0; i < each; i++) {
            const int at = me + i * Shape::threads, m = m0 + (A_ROWS ? at / DEPTH : at % T), k = k0 + (A_ROWS ? at % DEPTH : at / T);
            a[i] = m < M && k < K ? (float)A[A_ROWS ? (long long)m * K + k : (long long)k * M + m] : 0;
        }
#pragma unroll
        for (int i = 0; i < each; i++) {
            const int at = me + i * Shape::threads, n = n0 + (B_ROWS ? at % T : at / DEPTH), k = k0 + (B_ROWS ? at / T : at % DEPTH);
            b[i] = n < N && k < K ? (float)B[B_ROWS ? (long long)k * N + n : (long long)n * K + k] : 0;
        }
    };
    const auto store = [&] {
#pragma unroll
        for (int i = 0; i < each; i++) {
            const int at = me + i * Shape::threads, k = A_ROWS ? at % DEPTH : at / T, m = A_ROWS ? at / DEPTH : at % T;
            As[(buffer * DEPTH + k) * Shape::LA + m] = rounded(a[i]);
        }
#pragma unroll
        for (int i = 0; i < each; i++) {
            const int at = me + i * Shape::threads, k = B_ROWS ? at / T : at % DEPTH, n = B_ROWS ? at % T : at / DEPTH;
            Bs[(buffer * DEPTH + k) * Shape::LB + Shape::place(n)] = rounded(b[i]);
        }
    };
    load();
    store();
    __syncthreads();
    for (int done = 0; done < K; done += SLICES * DEPTH) {  // as often in each slice
        k0 += SLICES * DEPTH;
        const bool more = done + SLICES * DEPTH < K;
        if (more) load();
        const float* rows = As + buffer * DEPTH * Shape::LA;
        Shape::multiply(rows, Bs + buffer * DEPTH * Shape::LB, sum);
        if (sums_here)
            for (int k = 0; k < DEPTH; k++) row_sum += rows[k * Shape::LA + me];
        if (!more) break;
        buffer ^= 1;
        store();
        __syncthreads();
    }
    if (SLICES > 1) {  // the sums of slices 1, 3, ... lie in As, those of 2, 4, ... in Bs: T x T, then those of the rows
        __syncthreads();
        if (slice > 0) {
            float* own = (slice % 2 ? As : Bs) + (slice - 1) / 2 * T * (T + 1);
            for (int i = 0; i < Shape::rows; i++)
                for (int j = 0; j < Shape::columns; j++) own[Shape::row(i) * T + Shape::column(j)] = sum[i][j];
            if (me < T) own[T * T + me] = row_sum;
        }
        __syncthreads();
        if (slice > 0) return;
        for (int other = 1; other < SLICES; other++) {
            const float* theirs = (other % 2 ? As : Bs) + (other - 1) / 2 * T * (T + 1);
            for (int i = 0; i < Shape::rows; i++)
                for (int j = 0; j < Shape::columns; j++) sum[i][j] += theirs[Shape::row(i) * T + Shape::column(j)];
            if (me < T) row_sum += theirs[T * T + me];
        }
    }
    for (int i = 0; i < Shape::rows; i++)
        for (int j = 0; j < Shape::columns; j++) {
            const int m = m0 + Shape::row(i), n = n0 + Shape::column(j);
            if (m < M && n < N) C[(long long)m * N + n] = has_bias ? sum[i][j] + bias[n] : sum[i][j];
        }
    if (sums_here && m0 + me < M) row_sums[m0 + me] = row_sum;
}

// Grid (ceil(N/T) ceil(M/T)), tile by tile along a row: the other dimensions of a grid end at 65,535.
#define PRODUCT(NAME, T, SLICES, A_ROWS, B_ROWS) \
    extern "C" __global__ void TILE_BOUNDS NAME( \
        const stored* A, const stored* B, const stored* bias, stored* C, stored* row_sums, \
        int M, int N, int K, int has_bias, int wants_sums) { \
        SHARED_TILE(As, 2 * SLICES * Depth<T>::value, T); \
        SHARED_TILE(Bs, 2 * SLICES * Depth<T>::value, T); \
        product<T, SLICES, A_ROWS, B_ROWS>(As, Bs, A, B, bias, C, row_sums, M, N, K, has_bias, wants_sums); \
    }
PRODUCT(product_nn_32, 32, 4, true, true)
PRODUCT(product_nt_32, 32, 4, true, false)
PRODUCT(product_tn_32, 32, 4, false, true)
PRODUCT(product_nn_64, 64, 1, true, true)
PRODUCT(product_nt_64, 64, 1, true, false)
PRODUCT(product_tn_64, 64, 1, false, true)
PRODUCT(product_nn_128, 128, 1, true, true)
PRODUCT(product_nt_128, 128, 1, true, false)
PRODUCT(product_tn_128, 128, 1, false, true)
