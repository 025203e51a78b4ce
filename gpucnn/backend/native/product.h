/* Products of matrices by the BLAS, one thread of it for each part. */
#ifndef GPUCNN_PRODUCT_H
#define GPUCNN_PRODUCT_H

#include "threads.h"

/* Element (i, j) is data[i * line + j], or data[j * line + i] where it is transposed. */
typedef struct {
  const float *data;
  Index line;
  int transposed;
} Matrix;

/* y (M, N) in C order = a (M, K) @ b (K, N), plus perhaps one number for each row or each column. The BLAS's cblas_sgemm has integers
 * of 64 bits where it is `wide`. */
typedef struct {
  void (*sgemm)(void);
  int wide, bias_of_rows;
  Index M, N, K;
  Matrix a, b;
  const float *bias;
  float *y;
} Product;

/* Parts are cut by sizes alone, so that any number of threads gives the same bits. */
void product(const Product *p, int threads);

#endif
