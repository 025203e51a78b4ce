// Convolutions as products whose columns (im2col) are never written: what conv.cu and wide_conv.cu share.
//
// POOLED kernels stand for convolution + bias + ReLU + 2x2 max-pooling: pixels are then numbered so that the four outputs of
// a pooled pixel follow each other, a thread holds all four in registers, and only the pooled image and `argmax`, the number
// of the maximum in its window (row-major, the first of equals; DEAD where ReLU let nothing through), are written.

const int DEAD = 4;

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

// The pixel with this number among images of height x width.
__device__ __forceinline__ Pixel pixel_of(long long number, int height, int width) {
    const unsigned area = (unsigned)height * width;
    const bool narrow = number < (1LL << 32);  // as a rule, and divided many times faster
    const int rest = narrow ? (unsigned)number % area : (int)(number % area);
    return {narrow ? (int)((unsigned)number / area) : (int)(number / area), rest / width, rest % width};
}

template <bool POOLED>
__device__ __forceinline__ Pixel output_pixel(const Convolution& s, long long number) {
    if (number >= output_pixels<POOLED>(s)) return {-1, 0, 0};
    if (!POOLED) return pixel_of(number, s.OH, s.OW);
    const Pixel pooled = pixel_of(number / 4, s.OH / 2, s.OW / 2);
    const int corner = (int)(number % 4);
    return {pooled.n, pooled.row * 2 + corner / 2, pooled.column * 2 + corner % 2};
}

// dL/d(convolution's output) at one position: dy itself, or, POOLED, what the pooled gradient sends there.
template <bool POOLED>
__device__ __forceinline__ float output_gradient(
    const Convolution& s, const stored* dy, const unsigned char* argmax, int n, int f, int oh, int ow) {
    if (!POOLED) return dy[(((long long)n * s.F + f) * s.OH + oh) * s.OW + ow];
    const int PH = s.OH / 2, PW = s.OW / 2;
    if (oh / 2 >= PH || ow / 2 >= PW) return 0;
    const long long at = (((long long)n * s.F + f) * PH + oh / 2) * PW + ow / 2;
    return argmax[at] == oh % 2 * 2 + ow % 2 ? (float)dy[at] : 0;
}
