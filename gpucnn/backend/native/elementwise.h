/* What is done number by number: activation, loss, updates, batches of images, changes of layout. */

typedef struct {
  Index n;
  const float *a, *b;
  float *y;
} Map;

static void relu_part(void *job, Index part) {
  const Map *m = job;
  Index i = part * NUMBERS_OF_A_PART, end = least(m->n, i + NUMBERS_OF_A_PART);
  for (; i + W <= end; i += W) {
    V v = load(m->a + i);
    if (m->b) v += load(m->b + i);
    store(m->y + i, keep(~(v < 0), v));
  }
  for (; i < end; i++) {
    float v = m->b ? m->a[i] + m->b[i] : m->a[i];
    m->y[i] = v < 0 ? 0 : v;
  }
}

static void relu_gradient_part(void *job, Index part) {
  const Map *m = job;
  Index i = part * NUMBERS_OF_A_PART, end = least(m->n, i + NUMBERS_OF_A_PART);
  for (; i + W <= end; i += W) store(m->y + i, keep(load(m->b + i) > 0, load(m->a + i)));
  for (; i < end; i++) m->y[i] = m->b[i] > 0 ? m->a[i] : 0;
}

typedef struct {
  Index n;
  const float *x;
  float *y, factor, shift;
} HardSwish;

/* factor x min(max(x + 3, 0), 6) / 6 + shift; `factor` holds the division by 6 */
static void hardswish_part(void *job, Index part) {
  const HardSwish *h = job;
  Index i = part * NUMBERS_OF_A_PART, end = least(h->n, i + NUMBERS_OF_A_PART);
  for (; i + W <= end; i += W) store(h->y + i, activated(load(h->x + i), HARD_SWISH, h->factor, h->shift));
  for (; i < end; i++) {
    float x = h->x[i], v = x + 3;
    v = v < 0 ? 0 : v > 6 ? 6 : v;
    h->y[i] = v * x * h->factor + h->shift;
  }
}

static void hardswish(Index n, const float *x, float *y, float factor, float shift, int threads) {
  HardSwish job = {n, x, y, factor, shift};
  parallel(ceiling(n, NUMBERS_OF_A_PART), n > 4 * NUMBERS_OF_A_PART ? threads : 1, hardswish_part, &job);
}

INLINE void run_map(Map map, int threads, Work work) {
  parallel(ceiling(map.n, NUMBERS_OF_A_PART), map.n > 4 * NUMBERS_OF_A_PART ? threads : 1, work, &map);
}
static void relu(Index n, const float *x, const float *added, float *y, int threads) { run_map((Map){n, x, added, y}, threads, relu_part); }
static void relu_gradient(Index n, const float *dy, const float *y, float *dx, int threads) {
  run_map((Map){n, dy, y, dx}, threads, relu_gradient_part);
}

/* e^x for x <= 0 or NaN, within two units in the last place: 2^k e^r with |r| <= ln(2)/2, by Taylor's polynomial of degree 7. */
INLINE V exponential(V x) {
  const float shift = 12582912; /* 1.5 * 2^23: adding it rounds to whole numbers */
  V below = x;
  x = choose(x < -104, splat(-104), x);
  V k = (x * 1.44269504f + shift) - shift;
  V r = (x - k * 0.693359375f) - k * -2.12194440e-4f;
  V e = r * (1 / 5040.0f) + 1 / 720.0f;
  e = e * r + 1 / 120.0f;
  e = e * r + 1 / 24.0f;
  e = e * r + 1 / 6.0f;
  e = e * r + 0.5f;
  e = e * r * r + r + 1;
  I whole = __builtin_convertvector(keep(x == x, k), I), half = whole / 2;
  e *= (V)((half + 127) << 23);
  e *= (V)((whole - half + 127) << 23); /* in two steps, into the subnormal numbers */
  return choose(below != below, below, e);
}

/* Lanes n .. n+count-1, classes `step` apart. */
INLINE void entropy_lanes(const float *x, Index C, Index step, Index count, const int64_t *target, float *loss, float *gradient,
                          Index gradient_step) {
#define AT(p) (count == W ? load(p) : load_first(p, count))
  V high = AT(x), total = {0};
  for (Index c = 1; c < C; c++) {
    V v = AT(x + c * step);
    high = choose((v > high) | (v != v), v, high);
  }
  for (Index c = 0; c < C; c++) {
    V e = exponential(AT(x + c * step) - high);
    total += e;
    if (gradient) {
      if (count == W) store(gradient + c * gradient_step, e);
      else store_first(gradient + c * gradient_step, e, count);
    }
  }
  for (Index n = 0; n < count; n++) loss[n] = logf(total[n]) - (x[target[n] * step + n] - high[n]);
  if (gradient) {
    for (Index c = 0; c < C; c++) {
      float *g = gradient + c * gradient_step;
      V e = AT(g) / total;
      if (count == W) store(g, e);
      else store_first(g, e, count);
    }
    for (Index n = 0; n < count; n++) gradient[target[n] * gradient_step + n] -= 1;
  }
#undef AT
}

typedef struct {
  Index N, C, step, gradient_step;
  const float *x;
  const int64_t *target;
  float *loss, *gradient;
} Entropy;

static void entropy_part(void *job, Index part) {
  const Entropy *p = job;
  Index n = part * W, count = least(p->N - n, W);
  entropy_lanes(p->x + n, p->C, p->step, count, p->target + n, p->loss + n, p->gradient ? p->gradient + n : NULL, p->gradient_step);
}

static void cross_entropy(Index N, Index C, const float *x, Index step, const int64_t *target, float *loss, float *gradient,
                          Index gradient_step, int threads) {
  Entropy p = {N, C, step, gradient_step, x, target, loss, gradient};
  parallel(ceiling(N, W), N * C > NUMBERS_OF_A_PART ? threads : 1, entropy_part, &p);
}

/* Running means of zero gradients would end among the subnormal numbers, at which cores are slow: they end at zero before. */
#define SMALLEST 0x1p-100f
INLINE V cleared(V v) { return keep((v >= SMALLEST) | (v <= -SMALLEST) | (v != v), v); }

static void sgd_part(void *job, Index part) {
  const Update *u = job;
  Index i = part * NUMBERS_OF_A_PART, end = least(u->n, i + NUMBERS_OF_A_PART);
  for (; i < end; i += W) {
    Index count = least(end - i, W);
    int full = count == W;
#define AT(q) (full ? load((q) + i) : load_first((q) + i, count))
#define PUT(q, v) (full ? store((q) + i, v) : store_first((q) + i, v, count))
    V p = AT(u->p), g = AT(u->g);
    if (u->weight_decay != 0) g += u->weight_decay * p;
    if (u->m) {
      V m = cleared(AT(u->m) * u->beta1 + g);
      PUT(u->m, m);
      if (u->nesterov) g += u->beta1 * m;
      else g = m;
    }
    PUT(u->p, p - u->lr * g);
  }
}

static void adam_part(void *job, Index part) {
  const Update *u = job;
  Index i = part * NUMBERS_OF_A_PART, end = least(u->n, i + NUMBERS_OF_A_PART);
  for (; i < end; i += W) {
    Index count = least(end - i, W);
    int full = count == W;
    V p = AT(u->p), g = AT(u->g), m = AT(u->m), v = AT(u->v), root;
    if (u->decoupled) p *= u->keep;
    else if (u->weight_decay != 0) g += u->weight_decay * p;
    m = cleared(m * u->beta1 + g * u->rest1);
    v = v * u->beta2 + g * g * u->rest2;
    if (u->clear_v) v = cleared(v);
    PUT(u->m, m);
    PUT(u->v, v);
    UNROLL for (int k = 0; k < W; k++) root[k] = __builtin_sqrtf(v[k]);
    PUT(u->p, p - u->lr * (m / (root * u->root_factor + u->eps)));
  }
#undef AT
#undef PUT
}

static void update(const Update *u, int threads) {
  parallel(ceiling(u->n, NUMBERS_OF_A_PART), u->n > 4 * NUMBERS_OF_A_PART ? threads : 1, u->v ? adam_part : sgd_part, (void *)u);
}

/* Rows and columns exchanged: y[j*y_row + i] = x[i*x_row + j]. */
typedef struct {
  Index rows, columns, x_row, y_row;
  const float *x;
  float *y;
} Transposition;

typedef int32_t I4 __attribute__((vector_size(16)));
#ifdef __clang__
#define SHUFFLE4(a, b, i, j, k, l) __builtin_shufflevector(a, b, i, j, k, l)
#else
#define SHUFFLE4(a, b, i, j, k, l) __builtin_shuffle(a, b, (I4){i, j, k, l})
#endif

enum { COLUMNS_TOGETHER = 16 };

static void transpose_part(void *job, Index part) {
  const Transposition *t = job;
  Index first = part * COLUMNS_TOGETHER, end = least(t->columns, first + COLUMNS_TOGETHER), i = 0;
  for (; i + 4 <= t->rows; i += 4) {
    const float *x = t->x + i * t->x_row;
    float *y = t->y + i;
    Index j = first;
    for (; j + 4 <= end; j += 4) {
      V4 row[4], a, b, c, d;
      for (int k = 0; k < 4; k++) memcpy(&row[k], x + k * t->x_row + j, sizeof row[k]);
      a = SHUFFLE4(row[0], row[1], 0, 4, 1, 5), b = SHUFFLE4(row[2], row[3], 0, 4, 1, 5);
      c = SHUFFLE4(row[0], row[1], 2, 6, 3, 7), d = SHUFFLE4(row[2], row[3], 2, 6, 3, 7);
      row[0] = SHUFFLE4(a, b, 0, 1, 4, 5), row[1] = SHUFFLE4(a, b, 2, 3, 6, 7);
      row[2] = SHUFFLE4(c, d, 0, 1, 4, 5), row[3] = SHUFFLE4(c, d, 2, 3, 6, 7);
      for (int k = 0; k < 4; k++) memcpy(y + (j + k) * t->y_row, &row[k], sizeof row[k]);
    }
    for (; j < end; j++)
      for (int k = 0; k < 4; k++) y[j * t->y_row + k] = x[k * t->x_row + j];
  }
  for (; i < t->rows; i++)
    for (Index j = first; j < end; j++) t->y[j * t->y_row + i] = t->x[i * t->x_row + j];
}

static void transpose(Index rows, Index columns, const float *x, Index x_row, float *y, Index y_row, int threads) {
  Transposition t = {rows, columns, x_row, y_row, x, y};
  parallel(ceiling(columns, COLUMNS_TOGETHER), rows * columns > 4 * NUMBERS_OF_A_PART ? threads : 1, transpose_part, &t);
}

/* Bytes of the chosen images, batch last, as float times scale plus shift of their channel. */
typedef struct {
  const uint8_t *images;
  const int64_t *indices;
  const float *scale, *shift;
  float *y;
  Index N, C, pixels, cuts, total; /* images in all: an index below zero counts from their end */
} Batch;

enum { PIXELS_TOGETHER = 64 };

static void gather_part(void *job, Index part) {
  const Batch *b = job;
  Index c = part / b->cuts, first = part % b->cuts * PIXELS_TOGETHER, end = least(b->pixels, first + PIXELS_TOGETHER);
  float scale = b->scale[c], shift = b->shift[c];
  float *y = b->y + c * b->pixels * b->N;
  for (Index n = 0; n < b->N; n += W) {
    Index count = least(b->N - n, W);
    const uint8_t *image[W] = {0};
    for (Index k = 0; k < count; k++) image[k] = b->images + ((b->indices[n + k] + (b->indices[n + k] < 0) * b->total) * b->C + c) * b->pixels;
    if (count == W) {
      for (Index p = first; p < end; p++) {
        B bytes;
        UNROLL for (int k = 0; k < W; k++) bytes[k] = image[k][p];
        store(y + p * b->N + n, __builtin_convertvector(__builtin_convertvector(bytes, I), V) * scale + shift);
      }
    } else {
      for (Index p = first; p < end; p++)
        for (Index k = 0; k < count; k++) y[p * b->N + n + k] = (float)image[k][p] * scale + shift;
    }
  }
}

static void gather(Index N, Index C, Index pixels, Index total, const uint8_t *images, const int64_t *indices, const float *scale,
                   const float *shift, float *y, int threads) {
  Batch b = {images, indices, scale, shift, y, N, C, pixels, ceiling(pixels, PIXELS_TOGETHER), total};
  parallel(C * b.cuts, N * C * pixels > 4 * NUMBERS_OF_A_PART ? threads : 1, gather_part, &b);
}
