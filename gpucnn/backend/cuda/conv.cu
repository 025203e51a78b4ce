// Convolution as an implicit product, for every shape, and columns in memory for products by cuBLAS. A tile of the columns is
// gathered into shared memory.

// y (N, F, OH, OW) = filters x columns + bias; POOLED: y, argmax (N, F, PH, PW).
// Grid (ceil(pixels / TN), ceil(F/G / TM), G).
template <int TM, int TN, int RM, bool POOLED>
__device__ __forceinline__ void forward(
    float* As, float* Bs, const stored* x, const stored* w, const stored* b, stored* y, unsigned char* argmax,
    int has_bias, int wants_argmax, const Convolution& s) {
    const int TK = 16;
    typedef Tile<TM, TN, TK, RM, 4> Shape;
    const int each = TK * TN / Shape::threads;  // elements of the columns that a thread gathers, of one pixel
    const int FG = s.filters(), depth = s.depth(), g = blockIdx.z, f0 = blockIdx.y * TM;
    const long long p0 = (long long)blockIdx.x * TN;
    const int mine = threadIdx.x % TN, place_of_mine = Shape::place(mine), k_first = threadIdx.x / TN * each;
    const Pixel pixel = output_pixel<POOLED>(s, p0 + mine);
    const int h0 = pixel.row * s.SH - s.top, w0 = pixel.column * s.SW - s.left;
    const stored* image = x + ((long long)pixel.n * s.C + (long long)g * s.channels()) * s.H * s.W;
    const stored* filters = w + (long long)g * FG * depth;
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
        const float bias = has_bias ? (float)b[g * FG + f] : 0;
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
    extern "C" __global__ void TILE_BOUNDS NAME( \
        const stored* x, const stored* w, const stored* b, stored* y, unsigned char* argmax, int has_bias, \
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
    float* As, float* Bs, const stored* dy, const unsigned char* argmax, const stored* w, stored* dx, const Convolution& s) {
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
        const stored* dy, const unsigned char* argmax, const stored* w, stored* dx, SIZES) { \
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
    float* As, float* Bs, const stored* x, const stored* dy, const unsigned char* argmax, float* partial,
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
        const stored* image = x + ((long long)pixel.n * s.C + (long long)g * s.channels()) * s.H * s.W;
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
    extern "C" __global__ void TILE_BOUNDS NAME( \
        const stored* x, const stored* dy, const unsigned char* argmax, float* partial, int splits, long long each, SIZES) { \
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
    const float* partial, stored* dw, stored* db, int splits, int F, int depth) {
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
extern "C" __global__ void im2col(const stored* x, stored* columns, SIZES) {
    const int depth = C * KH * KW;
    FOR_EACH(i, (long long)N * OH * OW * depth) {
        const int k = (int)(i % depth), kw = k % KW, kh = k / KW % KH, c = k / (KW * KH);
        const long long p = i / depth;
        const int ow = (int)(p % OW), oh = (int)(p / OW % OH);
        const int h = oh * SH - top + kh * DH, v = ow * SW - left + kw * DW;
        const bool inside = h >= 0 && h < H && v >= 0 && v < W;
        columns[i] = inside ? (float)x[((p / ((long long)OH * OW) * C + c) * H + h) * W + v] : 0;
    }
}

// x (N, C, H, W): each pixel sums the elements of the columns that were copied from it.
extern "C" __global__ void col2im(const stored* columns, stored* x, SIZES) {
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
    const stored* x, const stored* bias, stored* y, int N, int R, int S, int has_bias) {
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
                if (r < R && c < S) y[((long long)n * S + c) * R + r] = tile[threadIdx.x][i] + (has_bias ? (float)bias[c] : 0);
            }
            __syncthreads();
        }
}

// packed (taps, C, F), or for an input gradient (taps, F, C), of w (F, C, taps), for wide_conv.cu.
extern "C" __global__ void pack_weights(const stored* w, stored* packed, int F, int C, int taps, int for_gradient) {
    const int inner = for_gradient ? C : F, outer = for_gradient ? F : C;
    FOR_EACH(i, (long long)taps * F * C) {
        const int in = (int)(i % inner), out = (int)(i / inner % outer), tap = (int)(i / ((long long)inner * outer));
        const long long f = for_gradient ? out : in, c = for_gradient ? in : out;
        packed[i] = w[(f * C + c) * taps + tap];
    }
}
