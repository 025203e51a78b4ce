#include "product.h"

#include <stdint.h>

enum { ROW_MAJOR = 101, AS_IT_IS = 111, TRANSPOSED = 112 }; /* of CBLAS */

typedef void (*Sgemm64)(int, int, int, int64_t, int64_t, int64_t, float, const float *, int64_t, const float *, int64_t, float, float *,
                        int64_t);
typedef void (*Sgemm32)(int, int, int, int, int, int, float, const float *, int, const float *, int, float, float *, int);

enum { LEAST_LINES = 24 }; /* rows or columns of a part */

/* More parts than these cost more than they are worth: each packs the whole of the other factor. */
static Index parts_of(const Product *p) {
  double work = 2. * (double)p->M * (double)p->N * (double)p->K;
  Index parts = work < 2.5e6 ? 1 : work < 12e6 ? 2 : work < 100e6 ? 4 : work < 1e9 ? 8 : 16;
  Index longer = p->M > p->N ? p->M : p->N;
  return parts < longer / LEAST_LINES ? parts : longer < LEAST_LINES ? 1 : longer / LEAST_LINES;
}

static void do_part(void *job, Index part) {
  const Product *p = job;
  Index parts = parts_of(p), M = p->M, N = p->N;
  const float *a = p->a.data, *b = p->b.data;
  float *y = p->y;
  const float *bias = p->bias;
  if (M >= N) {
    Index first = M * part / parts;
    M = M * (part + 1) / parts - first;
    a += p->a.transposed ? first : first * p->a.line;
    y += first * N;
    bias += bias && p->bias_of_rows ? first : 0;
  } else {
    Index first = N * part / parts;
    N = N * (part + 1) / parts - first;
    b += p->b.transposed ? first * p->b.line : first;
    y += first;
    bias += bias && !p->bias_of_rows ? first : 0;
  }
  int how_a = p->a.transposed ? TRANSPOSED : AS_IT_IS, how_b = p->b.transposed ? TRANSPOSED : AS_IT_IS;
  if (p->wide)
    ((Sgemm64)p->sgemm)(ROW_MAJOR, how_a, how_b, M, N, p->K, 1, a, p->a.line, b, p->b.line, 0, y, p->N);
  else
    ((Sgemm32)p->sgemm)(ROW_MAJOR, how_a, how_b, (int)M, (int)N, (int)p->K, 1, a, (int)p->a.line, b, (int)p->b.line, 0, y, (int)p->N);
  if (!bias) return;
  for (Index m = 0; m < M; m++)
    for (Index n = 0; n < N; n++) y[m * p->N + n] += bias[p->bias_of_rows ? m : n];
}

void product(const Product *p, int threads) { parallel(parts_of(p), threads, do_part, (void *)p); }
