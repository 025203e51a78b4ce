/* Pooling and its gradients, window by window; taps outside the image are left out. */

enum { NUMBERS_OF_A_PART = 1 << 14 };

typedef struct {
  const Pooling *p;
  const float *x, *dy, *share;
  const uint8_t *chosen;
  float *y, *dx;
  uint8_t *argmax;
  Index rows, cuts; /* rows of a part */
} Pool;

INLINE int32_t position_in_window(const Pooling *p, Index kh, Index kw) { return (int32_t)(kh * p->KW + kw); }

/* Of each window the maximum and its first argmax in the window; NaN is greater than all. Lanes n .. n+W-1, or one lane. */
#define MAXIMUM(TYPE, INT, LOAD, CHOOSE, CHOOSE_INT)                                                  \
  TYPE best = (TYPE){0} - INFINITY;                                                                   \
  INT argmax = (INT){0} + position_in_window(p, kh0, kw0);                                                \
  for (Index kh = kh0; kh < kh1; kh++)                                                                \
    for (Index kw = kw0; kw < kw1; kw++) {                                                            \
      TYPE v = LOAD(x + (kh * p->DH * p->W + kw * p->DW) * p->N + n);                                 \
      INT wins = (v > best) | ((v != v) & (best == best));                                            \
      best = CHOOSE(wins, v, best);                                                                   \
      argmax = CHOOSE_INT(wins, (INT){0} + position_in_window(p, kh, kw), argmax);                         \
    }
#define SCALAR_LOAD(p) (*(p))
#define SCALAR_CHOOSE(mask, a, b) ((mask) ? (a) : (b))
#define CHOOSE_I(mask, a, b) (((mask) & (a)) | (~(mask) & (b)))

static void max_pool_part(void *job, Index part) {
  const Pool *pool = job;
  const Pooling *p = pool->p;
  Index c = part / pool->cuts, first = part % pool->cuts * pool->rows, end = least(first + pool->rows, p->OH);
  for (Index i = first; i < end; i++)
    for (Index j = 0; j < p->OW; j++) {
      Index h = i * p->SH - p->top, w = j * p->SW - p->left;
      Index kh0 = first_tap(h, p->DH, p->KH), kh1 = end_tap(h, p->DH, p->H, p->KH);
      Index kw0 = first_tap(w, p->DW, p->KW), kw1 = end_tap(w, p->DW, p->W, p->KW);
      if (kh0 >= kh1 || kw0 >= kw1) kh0 = kw0 = kh1 = kw1 = 0;
      const float *x = pool->x + ((c * p->H + h) * p->W + w) * p->N;
      Index to = ((c * p->OH + i) * p->OW + j) * p->N, n = 0;
      if (!pool->argmax && p->N < W) {
        for (; n < p->N; n++) {
          float best = -INFINITY;
          int missing = 0; /* NaN, held apart so that the maximum needs no branch */
          for (Index kh = kh0; kh < kh1; kh++)
            for (Index kw = kw0; kw < kw1; kw++) {
              float v = x[(kh * p->DH * p->W + kw * p->DW) * p->N + n];
              missing |= v != v;
              best = best > v ? best : v;
            }
          pool->y[to + n] = missing ? NAN : best;
        }
        continue;
      }
      for (; n + W <= p->N; n += W) {
        MAXIMUM(V, I, load, choose, CHOOSE_I)
        store(pool->y + to + n, best);
        if (pool->argmax) *(B *)(pool->argmax + to + n) = __builtin_convertvector(argmax, B);
      }
      for (; n < p->N; n++) {
        MAXIMUM(float, int32_t, SCALAR_LOAD, SCALAR_CHOOSE, SCALAR_CHOOSE)
        pool->y[to + n] = best;
        if (pool->argmax) pool->argmax[to + n] = (uint8_t)argmax;
      }
    }
}

static void average_pool_part(void *job, Index part) {
  const Pool *pool = job;
  const Pooling *p = pool->p;
  Index c = part / pool->cuts, first = part % pool->cuts * pool->rows, end = least(first + pool->rows, p->OH);
  for (Index i = first; i < end; i++)
    for (Index j = 0; j < p->OW; j++) {
      Index h = i * p->SH - p->top, w = j * p->SW - p->left;
      Index kh0 = first_tap(h, p->DH, p->KH), kh1 = end_tap(h, p->DH, p->H, p->KH);
      Index kw0 = first_tap(w, p->DW, p->KW), kw1 = end_tap(w, p->DW, p->W, p->KW);
      const float *x = pool->x + ((c * p->H + h) * p->W + w) * p->N;
      float share = pool->share[i * p->OW + j];
      Index to = ((c * p->OH + i) * p->OW + j) * p->N, n = 0;
      for (; n + W <= p->N; n += W) {
        V total = {0};
        for (Index kh = kh0; kh < kh1; kh++)
          for (Index kw = kw0; kw < kw1; kw++) total += load(x + (kh * p->DH * p->W + kw * p->DW) * p->N + n);
        store(pool->y + to + n, total * share);
      }
      for (; n < p->N; n++) {
        float total = 0;
        for (Index kh = kh0; kh < kh1; kh++)
          for (Index kw = kw0; kw < kw1; kw++) total += x[(kh * p->DH * p->W + kw * p->DW) * p->N + n];
        pool->y[to + n] = total * share;
      }
    }
}

/* The mean of whole images that are fewer than a vector's lanes: their numbers come round every N vectors. */
static void global_average_part(void *job, Index c) {
  const Pool *pool = job;
  Index N = pool->p->N, count = pool->p->H * pool->p->W * N, i = 0;
  const float *x = pool->x + c * count;
  V total[W] = {{0}};
  float sums[W] = {0};
  for (; i + N * W <= count; i += N * W)
    for (Index v = 0; v < N; v++) total[v] += load(x + i + v * W);
  for (Index v = 0; v < N; v++)
    for (Index lane = 0; lane < W; lane++) sums[(v * W + lane) % N] += total[v][lane];
  for (; i < count; i += N)
    for (Index n = 0; n < N; n++) sums[n] += x[i + n];
  for (Index n = 0; n < N; n++) pool->y[c * N + n] = sums[n] * *pool->share;
}

/* A pixel's gradient: of the windows that see it, in the order of its position in them, those that chose it, or all, by their share. */
static void pool_gradient_part(void *job, Index part) {
  const Pool *pool = job;
  const Pooling *p = pool->p;
  Index c = part / pool->cuts, first = part % pool->cuts * pool->rows, end = least(first + pool->rows, p->H);
  for (Index h = first; h < end; h++)
    for (Index w = 0; w < p->W; w++) {
      float *dx = pool->dx + ((c * p->H + h) * p->W + w) * p->N;
      memset(dx, 0, (size_t)p->N * sizeof(float));
      for (Index kh = 0; kh < p->KH; kh++) {
        Index i = h + p->top - kh * p->DH;
        if (i < 0) break;
        if (i % p->SH || i / p->SH >= p->OH) continue;
        for (Index kw = 0; kw < p->KW; kw++) {
          Index j = w + p->left - kw * p->DW;
          if (j < 0) break;
          if (j % p->SW || j / p->SW >= p->OW) continue;
          Index from = ((c * p->OH + i / p->SH) * p->OW + j / p->SW) * p->N, n = 0;
          const float *dy = pool->dy + from;
          if (pool->chosen) {
            const uint8_t *chosen = pool->chosen + from;
            int32_t position = position_in_window(p, kh, kw);
            for (; n + W <= p->N; n += W)
              store(dx + n, load(dx + n) + keep(__builtin_convertvector(*(const B *)(chosen + n), I) == position, load(dy + n)));
            for (; n < p->N; n++) dx[n] += chosen[n] == position ? dy[n] : 0;
          } else {
            float share = pool->share[i / p->SH * p->OW + j / p->SW];
            for (; n + W <= p->N; n += W) store(dx + n, load(dx + n) + load(dy + n) * share);
            for (; n < p->N; n++) dx[n] += dy[n] * share;
          }
        }
      }
    }
}

static void run_pool(Pool *pool, Index rows, Index row, int threads, Work work) {
  if (!pool->p->C || !rows || !row) return;
  pool->rows = least(most(NUMBERS_OF_A_PART / row, 1), rows);
  pool->cuts = ceiling(rows, pool->rows);
  parallel(pool->p->C * pool->cuts, pool->p->C * rows * row > 2 * NUMBERS_OF_A_PART ? threads : 1, work, pool);
}

static void max_pool(const Pooling *p, const float *x, float *y, uint8_t *argmax, int threads) {
  Pool pool = {.p = p, .x = x, .y = y, .argmax = argmax};
  run_pool(&pool, p->OH, p->W * p->N * p->SH, threads, max_pool_part);
}

static void average_pool(const Pooling *p, const float *x, const float *share, float *y, int threads) {
  Pool pool = {.p = p, .x = x, .share = share, .y = y};
  int whole = p->N < W && p->OH == 1 && p->OW == 1 && p->KH == p->H && p->KW == p->W && p->DH == 1 && p->DW == 1 && !p->top && !p->left;
  run_pool(&pool, p->OH, p->W * p->N * p->SH, threads, whole ? global_average_part : average_pool_part);
}

static void pool_gradient(const Pooling *p, const float *dy, const uint8_t *chosen, const float *share, float *dx, int threads) {
  Pool pool = {.p = p, .dy = dy, .chosen = chosen, .share = share, .dx = dx};
  run_pool(&pool, p->H, p->W * p->N, threads, pool_gradient_part);
}
