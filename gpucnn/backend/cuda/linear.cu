// Matrix products.
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
