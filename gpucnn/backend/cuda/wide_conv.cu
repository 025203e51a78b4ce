// Convolutions with many channels and filters, compiled for one kernel size, stride, dilation and tile: one kernel a module,
// PRODUCT 0: wide_forward, 1: wide_input_gradient, 2: wide_weight_gradient, with ROWS x COLUMNS elements a tile.
//
// The products of a convolution are summed tap by tap (a tap is one position of the kernel), and within a tap channel by
// channel. So where a pixel's value lies, and whether it lies in the padding, is worked out once a tap, and the inner loop
// only steps from channel to channel. While a tile is multiplied the next one is on its way from memory: shared memory
// holds two. The weights are packed first (conv.cu), so that neighbouring threads read neighbouring weights.

#ifndef KERNEL_H
#define KERNEL_H 3
#define KERNEL_W 3
#define STRIDE_H 1
#define STRIDE_W 1
#define DILATION_H 1
#define DILATION_W 1
#define PRODUCT 0
#define ROWS 64
#define COLUMNS 128
#define FUSED 0
#endif

const bool POOLED = FUSED;
const int TAPS = KERNEL_H * KERNEL_W;
const int DEPTH = PRODUCT == 2 || TF32 ? 16 : 8;  // channels of a tile; pixels, for a weight gradient
typedef WideTile<ROWS, COLUMNS, DEPTH> Shape;

#define WIDE_SIZES int N, int C, int H, int W, int F, int top, int left, int OH, int OW
#define WIDE_SIZES_GIVEN \
    {N, C, H, W, F, KERNEL_H, KERNEL_W, STRIDE_H, STRIDE_W, DILATION_H, DILATION_W, top, left, OH, OW, 1}

// Which elements of a tile of columns, DEPTH x COLUMNS, a thread gathers: OWN_CHANNELS of OWN_PIXELS pixels.
const int OWN_PIXELS = COLUMNS > Shape::threads ? COLUMNS / Shape::threads : 1;
const int OWN_CHANNELS = DEPTH * COLUMNS / Shape::threads / OWN_PIXELS;

__device__ __forceinline__ int own_column(int q) {
    return COLUMNS > Shape::threads ? threadIdx.x + q * Shape::threads : threadIdx.x % COLUMNS;
}
__device__ __forceinline__ int own_first_channel() {
    return COLUMNS > Shape::threads ? 0 : threadIdx.x / COLUMNS * OWN_CHANNELS;
}

// The columns of a forward pass: pixels of x that the windows of output pixels see.
struct Seen {
    const stored* image[OWN_PIXELS];
    const stored* at[OWN_PIXELS];
    int h[OWN_PIXELS], v[OWN_PIXELS];
    bool exists[OWN_PIXELS], inside[OWN_PIXELS];
    int step;  // from channel to channel

    __device__ __forceinline__ void start(const Convolution& s, const stored* x, int q, Pixel pixel) {
        exists[q] = pixel.n >= 0;
        image[q] = x + (long long)(exists[q] ? pixel.n : 0) * s.C * s.H * s.W;
        h[q] = pixel.row * STRIDE_H - s.top, v[q] = pixel.column * STRIDE_W - s.left;
        step = s.H * s.W;
    }
    __device__ __forceinline__ bool uses(int) const { return true; }
    __device__ __forceinline__ void locate(const Convolution& s, int tap) {
#pragma unroll
        for (int q = 0; q < OWN_PIXELS; q++) {
            const int row = h[q] + tap / KERNEL_W * DILATION_H, column = v[q] + tap % KERNEL_W * DILATION_W;
            inside[q] = exists[q] && row >= 0 && row < s.H && column >= 0 && column < s.W;
            at[q] = image[q] + (inside[q] ? row * s.W + column : 0);
        }
    }
    __device__ __forceinline__ float value(int q, int offset) const { return inside[q] ? (float)at[q][offset] : 0; }
};

// The columns of an input gradient: the outputs whose windows saw input pixels. The rows of all pixels of a block have the
// same remainder by the stride, and so do their columns: they have the same taps.
struct Seeing {
    const stored* image[OWN_PIXELS];
    const unsigned char* indices[OWN_PIXELS];
    const stored* at[OWN_PIXELS];
    const unsigned char* index[OWN_PIXELS];
    int h[OWN_PIXELS], v[OWN_PIXELS], corner[OWN_PIXELS];
    bool exists[OWN_PIXELS], inside[OWN_PIXELS];
    int top, left;  // of the block's first pixel, from the padding's corner
    int step;

    __device__ __forceinline__ void start(
        const Convolution& s, const stored* dy, const unsigned char* argmax, int q, int n, int row, int column) {
        step = POOLED ? (s.OH / 2) * (s.OW / 2) : s.OH * s.OW;
        exists[q] = n >= 0;
        image[q] = dy + (long long)(exists[q] ? n : 0) * s.F * step;
        indices[q] = argmax + (long long)(exists[q] ? n : 0) * s.F * step;
        h[q] = row + s.top, v[q] = column + s.left;
    }
    __device__ __forceinline__ bool uses(int tap) const {
        return (top - tap / KERNEL_W * DILATION_H) % STRIDE_H == 0 && (left - tap % KERNEL_W * DILATION_W) % STRIDE_W == 0;
    }
    __device__ __forceinline__ void locate(const Convolution& s, int tap) {
        const int height = POOLED ? s.OH / 2 : s.OH, width = POOLED ? s.OW / 2 : s.OW;
#pragma unroll
        for (int q = 0; q < OWN_PIXELS; q++) {
            const int above = h[q] - tap / KERNEL_W * DILATION_H, before = v[q] - tap % KERNEL_W * DILATION_W;
            const int oh = above / STRIDE_H, ow = before / STRIDE_W;
            const int row = POOLED ? oh / 2 : oh, column = POOLED ? ow / 2 : ow;
            inside[q] = exists[q] && above >= 0 && before >= 0 && row < height && column < width;
            const int offset = inside[q] ? row * width + column : 0;
            at[q] = image[q] + offset;
            if (POOLED) index[q] = indices[q] + offset, corner[q] = oh % 2 * 2 + ow % 2;
        }
    }
    __device__ __forceinline__ float value(int q, int offset) const {
        if (!inside[q]) return 0;
        const float gradient = at[q][offset];
        return !POOLED || index[q][offset] == corner[q] ? gradient : 0;
    }
};

// sum += packed (used taps, depth, rows), of rows row0 and on, times the columns of `source`; depth is a multiple of DEPTH. As
// and Bs hold two tiles each.
template <class Source>
__device__ __forceinline__ void multiply_taps(
    float* As, float* Bs, const Convolution& s, const stored* packed, int row0, int rows, int depth, Source& source,
    float (&sum)[Shape::rows][Shape::columns]) {
    const int weights = ROWS * DEPTH / Shape::threads, m = threadIdx.x % ROWS, k_first = threadIdx.x / ROWS;
    const bool in_rows = row0 + m < rows;
    float a[weights], b[OWN_PIXELS][OWN_CHANNELS];
    int tap = 0, c0 = 0, buffer = 0;
    while (tap < TAPS && !source.uses(tap)) tap++;
    if (tap == TAPS) return;
    source.locate(s, tap);
    const auto load = [&] {
        const stored* from = packed + ((long long)tap * depth + c0 + k_first) * rows + row0 + m;
#pragma unroll
        for (int i = 0; i < weights; i++) a[i] = in_rows ? (float)from[i * (Shape::threads / ROWS) * rows] : 0;
        const int offset = (c0 + own_first_channel()) * source.step;
#pragma unroll
        for (int i = 0; i < OWN_CHANNELS; i++)
#pragma unroll
            for (int q = 0; q < OWN_PIXELS; q++) b[q][i] = source.value(q, offset + i * source.step);
    };
    const auto store = [&] {
#pragma unroll
        for (int i = 0; i < weights; i++)
            As[(buffer * DEPTH + k_first + i * (Shape::threads / ROWS)) * Shape::LA + m] = rounded(a[i]);
#pragma unroll
        for (int q = 0; q < OWN_PIXELS; q++)
#pragma unroll
            for (int i = 0; i < OWN_CHANNELS; i++)
                Bs[(buffer * DEPTH + own_first_channel() + i) * Shape::LB + Shape::place(own_column(q))] = rounded(b[q][i]);
    };
    load();
    store();
    __syncthreads();
    while (true) {
        c0 += DEPTH;
        if (c0 >= depth) {
            c0 = 0;
            do tap++;
            while (tap < TAPS && !source.uses(tap));
            if (tap < TAPS) source.locate(s, tap);
        }
        const bool more = tap < TAPS;
        if (more) load();
        Shape::multiply(As + buffer * DEPTH * Shape::LA, Bs + buffer * DEPTH * Shape::LB, sum);
        if (!more) break;
        buffer ^= 1;
        store();  // where nobody reads any more: all have passed the barrier after the product before this one
        __syncthreads();
    }
}

#if PRODUCT == 0

// Four neighbours at once; `at` is a multiple of four elements.
__device__ __forceinline__ void store_four(stored* at, float4 four) {
#if HALF
    const Half x = four.x, y = four.y, z = four.z, w = four.w;
    *(uint2*)at = make_uint2(x.bits | (unsigned)y.bits << 16, z.bits | (unsigned)w.bits << 16);
#else
    *(float4*)at = four;
#endif
}

// y (N, F, OH, OW); POOLED: y, argmax (N, F, PH, PW). Grid (ceil(pixels / COLUMNS), ceil(F / ROWS)).
extern "C" __global__ void __launch_bounds__(256) wide_forward(
    const stored* x, const stored* packed, const stored* b, stored* y, unsigned char* argmax, int has_bias, int wants_argmax,
    WIDE_SIZES) {
    SHARED_TILE(As, 2 * DEPTH, ROWS);
    SHARED_TILE(Bs, 2 * DEPTH, COLUMNS);
    const Convolution s = WIDE_SIZES_GIVEN;
    const int f0 = blockIdx.y * ROWS;
    const long long p0 = (long long)blockIdx.x * COLUMNS;
    Seen source;
#pragma unroll
    for (int q = 0; q < OWN_PIXELS; q++) source.start(s, x, q, output_pixel<POOLED>(s, p0 + own_column(q)));
    float sum[Shape::rows][Shape::columns] = {};
    multiply_taps(As, Bs, s, packed, f0, s.F, s.C, source, sum);
#pragma unroll
    for (int j = 0; j < Shape::columns; j += 4) {
        const long long first = p0 + Shape::column(j);
        const int area = s.OH * s.OW;
        const Pixel pixel = output_pixel<POOLED>(s, first);
        if (pixel.n < 0) continue;
#pragma unroll
        for (int i = 0; i < Shape::rows; i++) {
            const int f = f0 + Shape::row(i);
            if (f >= s.F) continue;
            const float bias = has_bias ? (float)b[f] : 0;
            const long long plane = (long long)pixel.n * s.F + f;
            if (POOLED) {
                int winner = 0;
                float best = sum[i][j];
#pragma unroll
                for (int k = 1; k < 4; k++)
                    if (sum[i][j + k] > best || (is_nan(sum[i][j + k]) && !is_nan(best))) best = sum[i][j + k], winner = k;
                best += bias;
                const long long at = (plane * (s.OH / 2) + pixel.row / 2) * (s.OW / 2) + pixel.column / 2;
                y[at] = best < 0 ? 0 : best;
                if (wants_argmax) argmax[at] = best > 0 ? winner : DEAD;
            } else if (area % 4 == 0) {  // then the four pixels are of one image
                const float4 four = {sum[i][j] + bias, sum[i][j + 1] + bias, sum[i][j + 2] + bias, sum[i][j + 3] + bias};
                store_four(y + plane * area + pixel.row * s.OW + pixel.column, four);
            } else {
#pragma unroll
                for (int k = 0; k < 4; k++) {
                    const Pixel p = output_pixel<false>(s, first + k);
                    if (p.n >= 0) y[(((long long)p.n * s.F + f) * s.OH + p.row) * s.OW + p.column] = sum[i][j + k] + bias;
                }
            }
        }
    }
}

#elif PRODUCT == 1

// dx (N, C, H, W). Grid (ceil(pixels of a remainder / COLUMNS), ceil(C / ROWS), STRIDE_H * STRIDE_W): the blocks of one z have the
// pixels whose row and column leave the same remainders by the stride.
extern "C" __global__ void __launch_bounds__(256) wide_input_gradient(
    const stored* dy, const unsigned char* argmax, const stored* packed, stored* dx, WIDE_SIZES) {
    SHARED_TILE(As, 2 * DEPTH, ROWS);
    SHARED_TILE(Bs, 2 * DEPTH, COLUMNS);
    const Convolution s = WIDE_SIZES_GIVEN;
    const int c0 = blockIdx.y * ROWS, row0 = blockIdx.z / STRIDE_W, column0 = blockIdx.z % STRIDE_W;
    const int height = (s.H - row0 + STRIDE_H - 1) / STRIDE_H, width = (s.W - column0 + STRIDE_W - 1) / STRIDE_W;
    const long long p0 = (long long)blockIdx.x * COLUMNS, pixels = (long long)s.N * height * width;
    Seeing source;
    source.top = row0 + s.top, source.left = column0 + s.left;
#pragma unroll
    for (int q = 0; q < OWN_PIXELS; q++) {
        const long long p = p0 + own_column(q);
        const Pixel none = {-1, 0, 0}, pixel = p < pixels ? pixel_of(p, height, width) : none;
        source.start(s, dy, argmax, q, pixel.n, row0 + pixel.row * STRIDE_H, column0 + pixel.column * STRIDE_W);
    }
    float sum[Shape::rows][Shape::columns] = {};
    multiply_taps(As, Bs, s, packed, c0, s.C, s.F, source, sum);
#pragma unroll
    for (int j = 0; j < Shape::columns; j++) {
        const long long p = p0 + Shape::column(j);
        if (p >= pixels) continue;
        const Pixel pixel = pixel_of(p, height, width);
        const long long row = (long long)pixel.n * s.C * s.H + row0 + pixel.row * STRIDE_H;
        stored* image = dx + row * s.W + column0 + pixel.column * STRIDE_W;
#pragma unroll
        for (int i = 0; i < Shape::rows; i++) {
            const int c = c0 + Shape::row(i);
            if (c < s.C) image[(long long)c * s.H * s.W] = sum[i][j];
        }
    }
}

#else

// partial (splits, F, C * TAPS + 1): output gradients x columns over `each` pixels for a split; the last element of a row is
// the bias gradient. A block has one tap; F >= ROWS, C >= COLUMNS. Grid (TAPS * ceil(C / COLUMNS), ceil(F / ROWS), splits).
extern "C" __global__ void __launch_bounds__(256) wide_weight_gradient(
    const stored* x, const stored* dy, const unsigned char* argmax, float* partial, long long each, WIDE_SIZES) {
    SHARED_TILE(As, 2 * DEPTH, ROWS);
    SHARED_TILE(Bs, 2 * DEPTH, COLUMNS);
    const Convolution s = WIDE_SIZES_GIVEN;
    const int stride = Shape::threads / DEPTH, filters = ROWS / stride, channels = COLUMNS / stride;
    const int tap = blockIdx.x % TAPS, c_own = blockIdx.x / TAPS * COLUMNS, f_own = blockIdx.y * ROWS, split = blockIdx.z;
    const int c0 = min(c_own, s.C - COLUMNS), f0 = min(f_own, s.F - ROWS);  // the last tile begins earlier
    const int mine = threadIdx.x % DEPTH, first = threadIdx.x / DEPTH;
    const long long last = min((split + 1) * each, output_pixels<POOLED>(s));
    const int height = POOLED ? s.OH / 2 : s.OH, width = POOLED ? s.OW / 2 : s.OW;
    const int plane = height * width, page = s.H * s.W;
    static_assert(Shape::threads >= ROWS, "a thread for each bias");
    const bool sums_here = tap == 0 && c_own == 0 && threadIdx.x < ROWS;
    float sum[Shape::rows][Shape::columns] = {}, a[filters], b[channels], row_sum = 0;
    long long p0 = split * each;
    int buffer = 0;
    const auto load = [&] {
        const Pixel pixel = output_pixel<POOLED>(s, p0 + mine);
        const bool exists = p0 + mine < last;
        const int row = POOLED ? pixel.row / 2 : pixel.row, column = POOLED ? pixel.column / 2 : pixel.column;
        const int corner = pixel.row % 2 * 2 + pixel.column % 2;
        const long long at = exists ? ((long long)pixel.n * s.F + f0 + first) * plane + row * width + column : 0;
        const stored* gradient = dy + at;
        const unsigned char* index = argmax + at;
#pragma unroll
        for (int i = 0; i < filters; i++, gradient += stride * plane) {
            a[i] = exists ? (float)*gradient : 0;
            if (POOLED && exists && index[i * stride * plane] != corner) a[i] = 0;
        }
        const int h = pixel.row * STRIDE_H - s.top + tap / KERNEL_W * DILATION_H;
        const int v = pixel.column * STRIDE_W - s.left + tap % KERNEL_W * DILATION_W;
        const bool seen = exists && h >= 0 && h < s.H && v >= 0 && v < s.W;
        const stored* from = x + (seen ? ((long long)pixel.n * s.C + c0 + first) * page + h * s.W + v : 0);
#pragma unroll
        for (int j = 0; j < channels; j++, from += stride * page) b[j] = seen ? (float)*from : 0;
    };
    const auto store = [&] {
#pragma unroll
        for (int i = 0; i < filters; i++)
            As[(buffer * DEPTH + mine) * Shape::LA + first + i * stride] = rounded(a[i]);
#pragma unroll
        for (int j = 0; j < channels; j++)
            Bs[(buffer * DEPTH + mine) * Shape::LB + Shape::place(first + j * stride)] = rounded(b[j]);
    };
    if (p0 < last) {
        load();
        store();
    }
    __syncthreads();
    while (p0 < last) {
        p0 += DEPTH;
        const bool more = p0 < last;
        if (more) load();
        const float* rows = As + buffer * DEPTH * Shape::LA;
        Shape::multiply(rows, Bs + buffer * DEPTH * Shape::LB, sum);
        if (sums_here)
            for (int k = 0; k < DEPTH; k++) row_sum += rows[k * Shape::LA + threadIdx.x];
        if (!more) break;
        buffer ^= 1;
        store();
        __syncthreads();
    }
    const long long length = (long long)s.C * TAPS + 1;
    float* out = partial + split * s.F * length;
#pragma unroll
    for (int i = 0; i < Shape::rows; i++)
#pragma unroll
        for (int j = 0; j < Shape::columns; j++) {
            const int f = f0 + Shape::row(i), c = c0 + Shape::column(j);
            if (f >= f_own && c >= c_own) out[f * length + (long long)c * TAPS + tap] = sum[i][j];
        }
    if (sums_here && f0 + (int)threadIdx.x >= f_own) out[(f0 + threadIdx.x + 1) * length - 1] = row_sum;
}

#endif
