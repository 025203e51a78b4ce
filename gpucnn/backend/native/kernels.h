/* The kernels, as the module calls them. Arrays of images have the shape (N, C, H, W) and lie as (C, H, W, N) in memory, the batch
 * last ("lanes"): the pixels of a row lie side by side, rows and channels may lie apart. Sizes and strides count numbers, not bytes.
 *
 * N images, C channels (of a group), H x W pixels, F filters (of a group), G groups, KH x KW kernel, OH x OW output pixels. */
#ifndef GPUCNN_KERNELS_H
#define GPUCNN_KERNELS_H

#include <stdint.h>

#include "threads.h"

enum { DEAD = 4 }; /* as the argmax of a 2x2 window: ReLU let nothing through */
enum { LARGEST_KERNEL = 64 };

/* Images to be read. With `argmax`, they are the gradient of 2x2 max-pooling instead, spread out as it is read: data and argmax
 * then have PH x PW pixels, and pixel (h, w) is the gradient of (h / 2, w / 2) where that chose it, else zero. */
typedef struct {
  const float *data;
  const uint8_t *argmax;
  Index channel, row; /* strides; of argmax: */
  Index argmax_channel, argmax_row;
  Index H, W, PH, PW;
} Images;

/* How output pixels meet input pixels: output row i and kernel row k meet in input row i*SH + row + k*row_step, likewise columns. */
typedef struct {
  Index KH, KW, SH, SW, row, row_step, column, column_step;
} Taps;

/* Where element (f, c, kh, kw) of group g of the weights is: data + g*group + f*filter + c*channel + kh*kernel_row + kw*kernel_column. */
typedef struct {
  const float *data;
  Index group, filter, channel, kernel_row, kernel_column;
} Weights;

/* What follows a correlation, with two numbers: factor x clip(x + 3, 0, 6) + shift, clip(factor x + shift, 0, 1). */
enum Activation { NONE, RELU, HARD_SWISH, HARD_SIGMOID };

/* Correlation of images with weights. With `pool`, relu(max_pool2d(correlation, 2)) is written, and where argmax is wanted its number
 * (0 to 3) or DEAD. y's pixels are `y_pixel` apart, N or more. */
typedef struct {
  Images x;
  Taps taps;
  Weights w;
  const float *bias;
  float *y;
  uint8_t *argmax;
  Index y_channel, y_row, y_pixel;
  Index N, C, F, G, OH, OW; /* OH, OW before pooling */
  int activation, pool;     /* the activation is ReLU with pool */
  float factor, shift;
} Correlation;

/* dw (G*F, C, KH, KW) and db (G*F,), from x and dy (G*F channels of OH x OW). */
typedef struct {
  Images x, dy;
  Taps taps;
  float *dw, *db;
  Index N, C, F, G, OH, OW;
} WeightGradient;

typedef struct {
  Index N, C, H, W, OH, OW;
  Index KH, KW, SH, SW, DH, DW, top, left;
} Pooling;

/* Batch normalisation of C channels of M numbers, then perhaps plus `residual`, then perhaps ReLU. Training makes mean, var and
 * factor = 1 / sqrt(var + eps), and nothing else where y is NULL; else they are given. Backward: dresidual, dweight and dbias may be NULL. */
typedef struct {
  Index C, M;
  const float *x, *residual, *weight, *bias;
  float *y, *mean, *var, *factor;
  const float *dy;
  float *dx, *dresidual, *dweight, *dbias;
  double eps;
  int training, relu;
} BatchNorm;

/* SGD (v is NULL; m, the velocity, may be; beta1 is the momentum) and Adam. */
typedef struct {
  Index n;
  float *p, *m, *v;
  const float *g;
  float lr, weight_decay, beta1, rest1, beta2, rest2, eps, root_factor, keep;
  int nesterov, decoupled, clear_v;
} Update;

/* One set of kernels for each vector width. Those that need memory of their own return 0 where there is none, else 1. */
typedef struct {
  const char *name;
  int width; /* numbers of a vector */
  int (*correlate)(const Correlation *, int threads);
  int (*weight_gradient)(const WeightGradient *, int threads);
  void (*max_pool)(const Pooling *, const float *x, float *y, uint8_t *argmax, int threads);
  void (*average_pool)(const Pooling *, const float *x, const float *share, float *y, int threads);
  void (*pool_gradient)(const Pooling *, const float *dy, const uint8_t *chosen, const float *share, float *dx, int threads);
  void (*batch_norm)(const BatchNorm *, int threads);
  void (*batch_norm_gradient)(const BatchNorm *, int threads);
  void (*relu)(Index n, const float *x, const float *added, float *y, int threads);
  void (*relu_gradient)(Index n, const float *dy, const float *y, float *dx, int threads);
  void (*hardswish)(Index n, const float *x, float *y, float factor, float shift, int threads);
  void (*cross_entropy)(Index N, Index C, const float *x, Index step, const int64_t *target, float *loss, float *gradient,
                        Index gradient_step, int threads);
  void (*update)(const Update *, int threads);
  void (*transpose)(Index rows, Index columns, const float *x, Index x_row, float *y, Index y_row, int threads);
  void (*gather)(Index N, Index C, Index pixels, Index total, const uint8_t *images, const int64_t *indices, const float *scale,
                 const float *shift, float *y, int threads);
} Kernels;

extern const Kernels kernels_generic, kernels_avx2, kernels_avx512;

#endif
