/* Gradients of convolution's weights and bias.
 *
 * An element of dw is the sum, over lanes and output pixels, of dy times the images shifted by its tap. A block of sums, some filters
 * times some taps, each a vector over lanes, stays in registers while the lanes of a tile pass. The channels are cut into parts, and
 * where that makes too few, the tiles are too; parts of the tiles have sums of their own, which are added in order. */

#if WIDTH == 16 || defined(__aarch64__)
enum { FILTERS_TOGETHER = 4, TAPS_TOGETHER = 6 };
#else
enum { FILTERS_TOGETHER = 2, TAPS_TOGETHER = 6 };
#endif
enum { LANES_OF_A_RUN = 2048, FEW_FILTERS = 16, TAPS_OF_A_PART = 144, MOST_CHANNELS = 64 };

typedef struct {
  Index rows, lanes;               /* of a tile of dy */
  Index x_row, dy_filter, dy_row;  /* strides */
  Index dw_filter;
} Product;

/* dw[f][k] += sum of dy[f] * x[tap[k]] over the lanes of all rows. Lanes beyond the last are masked: they may hold anything. */
#define PRODUCT(FB, TB)                                                                                           \
  static void product_##FB##_##TB(const Product *p, const float *dy, const float *x, const Index *tap, float *dw) { \
    V sums[FB][TB];                                                                                               \
    UNROLL for (int f = 0; f < FB; f++) UNROLL for (int k = 0; k < TB; k++) sums[f][k] = (V){0};                  \
    const Index whole = p->lanes / W * W, rest = p->lanes - whole;                                                \
    for (Index r = 0; r < p->rows; r++, dy += p->dy_row, x += p->x_row) {                                         \
      const float *xs[TB];                                                                                        \
      UNROLL for (int k = 0; k < TB; k++) xs[k] = x + tap[k];                                                     \
      for (Index l = 0; l < whole; l += W) {                                                                      \
        V d[FB];                                                                                                  \
        UNROLL for (int f = 0; f < FB; f++) d[f] = load(dy + f * p->dy_filter + l);                               \
        UNROLL for (int k = 0; k < TB; k++) {                                                                     \
          V part = load(xs[k] + l);                                                                               \
          IN_REGISTER(part);                                                                                      \
          UNROLL for (int f = 0; f < FB; f++) sums[f][k] += d[f] * part;                                          \
        }                                                                                                         \
      }                                                                                                           \
      if (rest) {                                                                                                 \
        I inside = lane_numbers() < (int32_t)rest;                                                                \
        UNROLL for (int k = 0; k < TB; k++) {                                                                     \
          V part = keep(inside, load(xs[k] + whole));                                                             \
          UNROLL for (int f = 0; f < FB; f++) sums[f][k] += keep(inside, load(dy + f * p->dy_filter + whole)) * part; \
        }                                                                                                         \
      }                                                                                                           \
    }                                                                                                             \
    UNROLL for (int f = 0; f < FB; f++) UNROLL for (int k = 0; k < TB; k++) dw[f * p->dw_filter + k] += sum(sums[f][k]); \
  }

typedef void (*ProductKernel)(const Product *, const float *, const float *, const Index *, float *);
#define PRODUCTS(FB) PRODUCT(FB, 1) PRODUCT(FB, 2) PRODUCT(FB, 3) PRODUCT(FB, 4) PRODUCT(FB, 5) PRODUCT(FB, 6)
#define PRODUCT_NAMES(FB) \
  {0, product_##FB##_1, product_##FB##_2, product_##FB##_3, product_##FB##_4, product_##FB##_5, product_##FB##_6}
PRODUCTS(1) PRODUCTS(2)
#if WIDTH == 16 || defined(__aarch64__)
PRODUCTS(3) PRODUCTS(4)
static const ProductKernel product_kernels[FILTERS_TOGETHER + 1][TAPS_TOGETHER + 1] = {
    {0}, PRODUCT_NAMES(1), PRODUCT_NAMES(2), PRODUCT_NAMES(3), PRODUCT_NAMES(4)};
#else
static const ProductKernel product_kernels[FILTERS_TOGETHER + 1][TAPS_TOGETHER + 1] = {{0}, PRODUCT_NAMES(1), PRODUCT_NAMES(2)};
#endif

typedef struct {
  const WeightGradient *p;
  Index channels, channel_cuts;               /* of a part */
  Index rows, columns, row_cuts, column_cuts; /* of a tile */
  Index sums;                                 /* parts that the tiles are cut into */
  float *dw;                                  /* of each of these but the first, behind each other: dw and db */
  int failed;
} Gradient;

static void plan_gradient(Gradient *plan, const WeightGradient *p) {
  const Taps *t = &p->taps;
  Index area = t->KH * t->KW, lanes = images_of(p->N, image_cuts(p->N) - 1);
  plan->channels = least(most(ceiling(TAPS_OF_A_PART, area), 1), MOST_CHANNELS);
  plan->channel_cuts = most(ceiling(p->C, plan->channels), 1);
  plan->channels = ceiling(p->C, plan->channel_cuts);
  Index run = p->F > FEW_FILTERS ? LANES_OF_A_RUN : 2 * LANES_OF_A_RUN;
  Index columns = least(p->OW, most(ceiling(run, lanes), 1)), rows = least(p->OH, most(run / (columns * lanes), 1));
  Tile tile;
  while (columns > 2 && (lay_out(&tile, t, plan->channels, rows, columns, lanes, 0) + p->F * rows * columns * lanes) * 4 > 2 * TILE_BYTES)
    if (rows > 1) rows = ceiling(rows, 2);
    else columns = ceiling(columns, 2);
  plan->row_cuts = ceiling(p->OH, rows);
  plan->column_cuts = ceiling(p->OW, columns);
  Index tiles = image_cuts(p->N) * plan->row_cuts * plan->column_cuts, parts = p->G * plan->channel_cuts;
  double work = 2.0 * (double)(p->N * p->OH * p->OW) * (double)(plan->channels * p->F * area);
  plan->sums = 1;
  while (2 * plan->sums <= tiles && parts * plan->sums < WANTED_PARTS && work > 2 * LEAST_WORK) {
    plan->sums *= 2;
    work /= 2;
  }
}

static void gradient_part(void *job, Index part) {
  Gradient *plan = job;
  const WeightGradient *p = plan->p;
  const Taps *t = &p->taps;
  Index sums = part % plan->sums, c_cut = part / plan->sums % plan->channel_cuts, g = part / plan->sums / plan->channel_cuts;
  Index c = p->C * c_cut / plan->channel_cuts, C = p->C * (c_cut + 1) / plan->channel_cuts - c;
  Index area = t->KH * t->KW, all = p->C * area, count = C * area, F = p->F;
  float *dw = sums ? plan->dw + (sums - 1) * p->G * F * (all + 1) : p->dw;
  float *db = sums ? dw + p->G * F * all : p->db;
  dw += g * F * all + c * area;
  db += g * F;
  for (Index f = 0; f < F; f++) memset(dw + f * all, 0, (size_t)count * sizeof(float));
  if (!c) memset(db, 0, (size_t)F * sizeof(float));

  const Taps plain = {1, 1, 1, 1, 0, 1, 0, 1};
  Index tiles = image_cuts(p->N) * plan->row_cuts * plan->column_cuts;
  for (Index at = tiles * sums / plan->sums; at < tiles * (sums + 1) / plan->sums; at++) {
    Index j = at % plan->column_cuts, i = at / plan->column_cuts % plan->row_cuts, cut = at / plan->column_cuts / plan->row_cuts;
    Index row = cut_at(p->OH, plan->row_cuts, i, 1), rows = cut_at(p->OH, plan->row_cuts, i + 1, 1) - row;
    Index left = cut_at(p->OW, plan->column_cuts, j, 1), columns = cut_at(p->OW, plan->column_cuts, j + 1, 1) - left;
    Index n = cut * IMAGES_OF_A_TILE, lanes = images_of(p->N, cut);
    Tile x, dy;
    Index x_size = ceiling(lay_out(&x, t, C, rows, columns, lanes, 0), LINE) * LINE;
    Index dy_size = ceiling(lay_out(&dy, &plain, F, rows, columns, lanes, 0), LINE) * LINE;
    char *memory = scratch(OWN, (x_size + dy_size) * 4 + count * (Index)sizeof(Index));
    if (!memory) {
      __atomic_store_n(&plan->failed, 1, __ATOMIC_RELAXED);
      return;
    }
    Index *tap = (Index *)memory;
    x.data = (float *)(memory + ceiling(count * (Index)sizeof(Index), 64) * 64);
    dy.data = x.data + x_size;
    load_tile(&x, &p->x, t, p->N, n, g * p->C + c, C, row, rows, left, columns, 1);
    load_tile(&dy, &p->dy, &plain, p->N, n, g * F, F, row, rows, left, columns, 0);
    for (Index k = 0; k < count; k++)
      tap[k] = k / area * x.channel + k % area / t->KW * t->row_step * x.row + column_offset(&x, t, k % t->KW);
    Product product = {rows, columns * lanes, t->SH * x.row, dy.channel, dy.row, all};
    Index f_blocks = ceiling(F, FILTERS_TOGETHER), t_blocks = ceiling(count, TAPS_TOGETHER);
    for (Index fb = 0; fb < f_blocks; fb++) {
      Index f = F * fb / f_blocks, FB = F * (fb + 1) / f_blocks - f;
      for (Index tb = 0; tb < t_blocks; tb++) {
        Index k = count * tb / t_blocks, TB = count * (tb + 1) / t_blocks - k;
        product_kernels[FB][TB](&product, dy.data + f * dy.channel, x.data, tap + k, dw + f * all + k);
      }
    }
    if (!c)
      for (Index f = 0; f < F; f++) {
        V total = {0};
        float rest = 0;
        for (Index r = 0; r < rows; r++) {
          const float *d = dy.data + f * dy.channel + r * dy.row;
          Index l = 0;
          for (; l + W <= columns * lanes; l += W) total += load(d + l);
          for (; l < columns * lanes; l++) rest += d[l];
        }
        db[f] += sum(total) + rest;
      }
  }
}

static int weight_gradient(const WeightGradient *given, int threads) {
  WeightGradient flat = *given;
  const WeightGradient *p = &flat;
  const Taps *t = &flat.taps;
  int plain = t->KH == 1 && t->KW == 1 && t->SH == 1 && t->SW == 1 && !t->row && !t->column && !flat.dy.argmax;
  if (plain && p->OH == p->x.H && p->OW == p->x.W && p->x.row == p->OW * p->N && p->dy.row == p->OW * p->N) {
    flat.OW = flat.x.W = flat.dy.W = p->OH * p->OW * p->N; /* one long row, as in flattened() */
    flat.OH = flat.x.H = flat.dy.H = flat.N = 1;
    flat.x.row = flat.dy.row = flat.OW;
  }
  Gradient plan = {.p = p};
  Index numbers = p->G * p->F * (p->C * p->taps.KH * p->taps.KW + 1);
  if (!p->N || !p->OH || !p->OW) {
    memset(p->dw, 0, (size_t)(numbers - p->G * p->F) * sizeof(float));
    memset(p->db, 0, (size_t)(p->G * p->F) * sizeof(float));
    return 1;
  }
  plan_gradient(&plan, p);
  plan.dw = scratch(SHARED, (plan.sums - 1) * numbers * 4 + 64);
  if (!plan.dw) return 0;
  parallel(p->G * plan.channel_cuts * plan.sums, threads, gradient_part, &plan);
  for (Index s = 1; s < plan.sums; s++) {
    const float *more = plan.dw + (s - 1) * numbers;
    for (Index i = 0; i < numbers - p->G * p->F; i++) p->dw[i] += more[i];
    for (Index i = 0; i < p->G * p->F; i++) p->db[i] += more[numbers - p->G * p->F + i];
  }
  return !plan.failed;
}
