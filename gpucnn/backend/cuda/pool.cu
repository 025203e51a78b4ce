// Pooling.
//
// Images are (P, H, W) with P = N*C planes. `argmax` is the number of the maximum in its window, row-major; one byte up to
// 255 elements, else an int. A window wholly outside the image has argmax KH*KW, which no pixel answers to.

#define POOL_SIZES long long P, int H, int W, int KH, int KW, int SH, int SW, int DH, int DW, int top, int left, \
    int OH, int OW

#define MAX_POOL(NAME, INDEX) \
    extern "C" __global__ void NAME(const stored* x, stored* y, INDEX* argmax, int wants_argmax, POOL_SIZES) { \
        FOR_EACH(i, P * OH * OW) { \
            const int h0 = (int)(i / OW % OH) * SH - top, w0 = (int)(i % OW) * SW - left; \
            const stored* image = x + i / ((long long)OH * OW) * H * W; \
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
    extern "C" __global__ void NAME(const stored* dy, const INDEX* argmax, stored* dx, POOL_SIZES) { \
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
    const stored* x, const float* rows, const float* columns, stored* y, float divisor, int counted, POOL_SIZES) {
    FOR_EACH(i, P * OH * OW) {
        const int oh = (int)(i / OW % OH), ow = (int)(i % OW);
        const stored* image = x + i / ((long long)OH * OW) * H * W;
        float sum = 0;
        for (int k = 0; k < KH * KW; k++) {
            const int h = oh * SH - top + k / KW * DH, v = ow * SW - left + k % KW * DW;
            if (h >= 0 && h < H && v >= 0 && v < W) sum += image[(long long)h * W + v];
        }
        y[i] = sum / (counted ? rows[oh] * columns[ow] : divisor);
    }
}

extern "C" __global__ void average_pool_gradient(
    const stored* dy, const float* rows, const float* columns, stored* dx, float divisor, int counted, POOL_SIZES) {
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
