/* Correlation of images with weights: forward convolution, and with flipped weights its input gradient.
 *
 * A block of sums, some filters times some vectors of lanes, stays in registers while the taps pass: a load for each vector and a
 * broadcast for each filter do filters * vectors multiply-adds. Channels are taken a few at a time, so that what a block of lanes sees
 * of them stays in the first-level cache while all filters pass over it. Each sum is in the order channel, row, column,
 * whatever the tiles and threads. Taps that fall outside the image are left out where a whole vector sees them there. */

#if WIDTH == 16 || defined(__aarch64__) /* 32 vector registers */
enum { MOST_FILTERS = 8, MOST_VECTORS = 8 };
static const int vectors_with[MOST_FILTERS + 1] = {0, 8, 8, 6, 6, 4, 4, 3, 3};
#else
enum { MOST_FILTERS = 6, MOST_VECTORS = 8 };
static const int vectors_with[MOST_FILTERS + 1] = {0, 8, 5, 3, 3, 2, 2};
#endif

/* Of so many taps the weights of a block of filters stay in the first-level cache while it passes over the whole tile, which it then
 * writes in long rows; with more, or very few, it was better that all filters pass over a run of lanes. */
enum { FEWEST_TAPS = 32, MOST_TAPS = 256 };

typedef struct {
  Index C, KH, KW;                    /* taps of this block */
  Index x_channel, x_row;             /* strides in the tile */
  const Index *column;                /* offset of each column tap in the tile */
  Index w_channel, w_row;             /* steps in the packed weights, in taps */
  const float *bias;                  /* one for each filter, where the sums start */
  float *sums;                        /* or where those of the channels before are, and where they go if there are more */
  float *to[MOST_VECTORS];            /* or where they end, for the first filter */
  Index to_filter;
  int first, last, activation;
  float factor, shift;                /* of the activation */
} Block;

#define BLOCK(FB, VB)                                                                                           \
  static void block_##FB##_##VB(const Block *b, const float *x, const float *w) {                               \
    V sum[FB][VB];                                                                                              \
    UNROLL for (int f = 0; f < FB; f++) UNROLL for (int v = 0; v < VB; v++) sum[f][v] =                         \
        b->first ? splat(b->bias[f]) : load(b->sums + (f * VB + v) * W);                                        \
    const Index KW = b->KW, *column = b->column;                                                                \
    for (Index c = 0; c < b->C; c++)                                                                            \
      for (Index kh = 0; kh < b->KH; kh++) {                                                                    \
        const float *xr = x + c * b->x_channel + kh * b->x_row, *wr = w + (c * b->w_channel + kh * b->w_row) * FB; \
        for (Index kw = 0; kw < KW; kw++, wr += FB) {                                                           \
          const float *xp = xr + column[kw];                                                                    \
          V part[VB];                                                                                           \
          UNROLL for (int v = 0; v < VB; v++) part[v] = load(xp + v * W);                                       \
          UNROLL for (int f = 0; f < FB; f++) UNROLL for (int v = 0; v < VB; v++) sum[f][v] += part[v] * wr[f]; \
        }                                                                                                       \
      }                                                                                                         \
    if (!b->last) {                                                                                             \
      UNROLL for (int f = 0; f < FB; f++) UNROLL for (int v = 0; v < VB; v++)                                   \
          store(b->sums + (f * VB + v) * W, sum[f][v]);                                                         \
      return;                                                                                                   \
    }                                                                                                           \
    if (b->activation)                                                                                          \
      UNROLL for (int f = 0; f < FB; f++) UNROLL for (int v = 0; v < VB; v++) sum[f][v] =                       \
          activated(sum[f][v], b->activation, b->factor, b->shift);                                             \
    UNROLL for (int f = 0; f < FB; f++) UNROLL for (int v = 0; v < VB; v++)                                     \
        store(b->to[v] + f * b->to_filter, sum[f][v]);                                                          \
  }

typedef void (*BlockKernel)(const Block *, const float *, const float *);
BLOCK(1, 1) BLOCK(1, 2) BLOCK(1, 3) BLOCK(1, 4) BLOCK(1, 5) BLOCK(1, 6) BLOCK(1, 7) BLOCK(1, 8)
BLOCK(2, 1) BLOCK(2, 2) BLOCK(2, 3) BLOCK(2, 4) BLOCK(2, 5)
BLOCK(3, 1) BLOCK(3, 2) BLOCK(3, 3)
BLOCK(4, 1) BLOCK(4, 2) BLOCK(4, 3)
BLOCK(5, 1) BLOCK(5, 2)
BLOCK(6, 1) BLOCK(6, 2)
#if WIDTH == 16 || defined(__aarch64__)
BLOCK(2, 6) BLOCK(2, 7) BLOCK(2, 8)
BLOCK(3, 4) BLOCK(3, 5) BLOCK(3, 6)
BLOCK(4, 4) BLOCK(4, 5) BLOCK(4, 6)
BLOCK(5, 3) BLOCK(5, 4)
BLOCK(6, 3) BLOCK(6, 4)
BLOCK(7, 1) BLOCK(7, 2) BLOCK(7, 3)
BLOCK(8, 1) BLOCK(8, 2) BLOCK(8, 3)
static const BlockKernel block_kernels[MOST_FILTERS + 1][MOST_VECTORS + 1] = {
    {0},
    {0, block_1_1, block_1_2, block_1_3, block_1_4, block_1_5, block_1_6, block_1_7, block_1_8},
    {0, block_2_1, block_2_2, block_2_3, block_2_4, block_2_5, block_2_6, block_2_7, block_2_8},
    {0, block_3_1, block_3_2, block_3_3, block_3_4, block_3_5, block_3_6},
    {0, block_4_1, block_4_2, block_4_3, block_4_4, block_4_5, block_4_6},
    {0, block_5_1, block_5_2, block_5_3, block_5_4},
    {0, block_6_1, block_6_2, block_6_3, block_6_4},
    {0, block_7_1, block_7_2, block_7_3},
    {0, block_8_1, block_8_2, block_8_3},
};
#else
static const BlockKernel block_kernels[MOST_FILTERS + 1][MOST_VECTORS + 1] = {
    {0},
    {0, block_1_1, block_1_2, block_1_3, block_1_4, block_1_5, block_1_6, block_1_7, block_1_8},
    {0, block_2_1, block_2_2, block_2_3, block_2_4, block_2_5},
    {0, block_3_1, block_3_2, block_3_3},
    {0, block_4_1, block_4_2, block_4_3},
    {0, block_5_1, block_5_2},
    {0, block_6_1, block_6_2},
};
#endif

/* Filters are cut into blocks of nearly the same size. */
INLINE Index filter_blocks(Index F) { return ceiling(F, MOST_FILTERS); }

/* Weights in the order of use: for each block of filters, for each tap the block's filters side by side. */
typedef struct {
  const Correlation *p;
  float *to;
} Packing;

static void pack_filters(void *job, Index part) {
  const Packing *packing = job;
  const Correlation *p = packing->p;
  const Weights *w = &p->w;
  Index blocks = filter_blocks(p->F), g = part / blocks, block = part % blocks;
  Index first = p->F * block / blocks, end = p->F * (block + 1) / blocks;
  float *to = packing->to + (g * p->F + first) * p->C * p->taps.KH * p->taps.KW;
  for (Index c = 0; c < p->C; c++)
    for (Index kh = 0; kh < p->taps.KH; kh++)
      for (Index kw = 0; kw < p->taps.KW; kw++) {
        const float *from =
            w->data + g * w->group + first * w->filter + c * w->channel + kh * w->kernel_row + kw * w->kernel_column;
        for (Index f = first; f < end; f++, from += w->filter) *to++ = *from;
      }
}

/* How the work is cut into parts; by sizes alone. */
typedef struct {
  const Correlation *p;
  const float *w; /* packed */
  Index row_cuts, column_cuts, filter_cuts, unit;
  Index channels; /* at a time */
  Index together; /* blocks of filters that pass over a run before the next run */
  Index vectors;  /* of a block, at most */
  int merged;     /* rows of a tile are one long row, whose lanes between rows are thrown away */
  int failed;
} Plan;

static void plan_parts(Plan *plan, const Correlation *p) {
  const Taps *t = &p->taps;
  Index lanes = images_of(p->N, image_cuts(p->N) - 1), unit = p->pool ? 2 : 1;
  Index OH = p->OH / unit * unit, OW = p->OW / unit * unit, rows = OH, columns = OW, blocks = filter_blocks(p->F);
  Tile tile;
  while (columns > 2 * unit && (lay_out(&tile, t, p->C, unit, columns, lanes, 0) * 4 > TILE_BYTES ||
                                (p->pool && p->F * 2 * columns * lanes * 4 > TILE_BYTES / 4)))
    columns = ceiling(columns, 2 * unit) * unit;
  while (rows > unit && lay_out(&tile, t, p->C, rows, columns, lanes, 0) * 4 > TILE_BYTES) rows = ceiling(rows, 2 * unit) * unit;
  double work = 2.0 * (double)(p->N * OH * OW) * (double)(p->C * p->F * t->KH * t->KW);
  Index parts = p->G * image_cuts(p->N) * ceiling(OW, columns);
  work /= (double)image_cuts(p->N) * (double)ceiling(OW, columns);
  while (rows > unit && parts * ceiling(OH, rows) < WANTED_PARTS && work / (double)ceiling(OH, rows) > 2 * LEAST_WORK)
    rows = ceiling(rows, 2 * unit) * unit;
  plan->row_cuts = ceiling(OH, rows);
  plan->column_cuts = ceiling(OW, columns);
  plan->filter_cuts = 1;
  plan->unit = unit;
  parts *= plan->row_cuts;
  work /= (double)plan->row_cuts;
  while (2 * plan->filter_cuts <= blocks && parts * plan->filter_cuts < WANTED_PARTS && work > 2 * LEAST_WORK) {
    plan->filter_cuts *= 2;
    work /= 2;
  }
  plan->vectors = vectors_with[ceiling(p->F, blocks)];
  plan->merged = t->SH == 1 && !p->pool && rows > 1 && columns * lanes < plan->vectors * W && columns * lanes % W;
  plan->together = p->C * t->KH * t->KW >= FEWEST_TAPS && p->C * t->KH * t->KW <= MOST_TAPS && !p->pool ? 1 : blocks;
  Index block = plan->vectors * W;
  Index seen = t->KH * (block + (t->KW - 1) * least(lanes, block)) * 4; /* bytes of a channel that a block of lanes sees */
  plan->channels = most(ceiling(p->C, most(ceiling(p->C, most(L1_BYTES / most(seen, 1), 4)), 1)), 1);
}

/* A run of lanes that see the same taps, and where their sums go. */
typedef struct {
  const float *x;
  Index kh, KH, kw, KW;      /* first tap, number of taps */
  Index lanes;
  float *y;                  /* of the first filter of the part */
  Index y_filter, y_pixel, y_row;
  Index row, row_lanes;      /* merged rows: lanes from row to row, and those of them that count */
} Run;

/* Copy the lanes first .. end-1 of a run that count, of one filter. */
static void place_lanes(const Run *run, Index lanes, const float *from, float *y, Index first, Index end) {
  while (first < end) {
    Index r = first / run->row, at = first % run->row, next = least(end, (r + 1) * run->row);
    if (at < run->row_lanes) {
      Index n = at % lanes, count = run->y_pixel == lanes ? run->row_lanes - at : lanes - n;
      count = least(count, next - first);
      memcpy(y + r * run->y_row + at / lanes * run->y_pixel + n, from, (size_t)count * sizeof(float));
      from += count;
      first += count;
    } else {
      from += next - first;
      first = next;
    }
  }
}

static void correlate_run(const Plan *plan, const Tile *tile, const Run *run, const Index *column, Index g, Index first_block,
                          Index end_block, float *sums) {
  const Correlation *p = plan->p;
  const Taps *t = &p->taps;
  Index blocks = filter_blocks(p->F), taps = t->KH * t->KW, vectors = ceiling(run->lanes, W);
  Index pieces = ceiling(vectors, plan->vectors), start = p->F * first_block / blocks, lanes = tile->lanes;
  int whole = run->y_pixel == lanes && run->row >= run->lanes;
  float *apart = sums + p->F * plan->vectors * W;
  Block b = {.KH = run->KH, .KW = run->KW, .x_channel = tile->channel, .x_row = t->row_step * tile->row, .column = column + run->kw,
             .w_channel = taps, .w_row = t->KW, .activation = p->pool ? NONE : p->activation,
             .factor = p->factor, .shift = p->shift};
  for (Index piece = 0, l = 0; piece < pieces; piece++) {
    Index VB = vectors * (piece + 1) / pieces - vectors * piece / pieces, end = least(l + VB * W, run->lanes);
    int direct = end == l + VB * W && (whole || (lanes % W == 0 && run->row >= run->lanes));
    for (Index v = 0; v < VB; v++) {
      Index at = l + v * W;
      b.to[v] = !direct ? apart + v * W : whole ? run->y + at : run->y + at / lanes * run->y_pixel + at % lanes;
    }
    b.to_filter = direct ? run->y_filter : VB * W;
    for (Index c = 0; c < most(p->C, 1); c += plan->channels) { /* once without channels, for the bias */
      b.C = least(plan->channels, p->C - c);
      b.first = c == 0;
      b.last = c + b.C == p->C;
      const float *x = run->x + c * tile->channel + run->kh * t->row_step * tile->row + l;
      for (Index block = first_block; block < end_block; block++) {
        Index f = p->F * block / blocks, FB = p->F * (block + 1) / blocks - f;
        const float *w = plan->w + (g * p->F + f) * p->C * taps;
        w += (c * taps + run->kh * t->KW + run->kw) * FB;
        float *y = b.to[0];
        if (direct)
          for (Index v = 0; v < VB; v++) b.to[v] += (f - start) * run->y_filter;
        b.bias = p->bias + g * p->F + f;
        b.sums = sums + (f - start) * VB * W;
        block_kernels[FB][VB](&b, x, w);
        if (direct) {
          for (Index v = VB - 1; v >= 0; v--) b.to[v] -= (f - start) * run->y_filter;
        } else if (b.last) {
          for (Index i = 0; i < FB; i++)
            place_lanes(run, lanes, y + i * VB * W, run->y + (f - start + i) * run->y_filter, l, end);
        }
      }
    }
    l = end;
  }
}

/* The larger of four numbers, then ReLU, and its argmax; NaN stays. */
INLINE V pool_vectors(V a, V b, V c, V d, B *winner) {
  I right = (b > a) | (b != b), right_below = (d > c) | (d != d);
  V above = choose(right, b, a), under = choose(right_below, d, c);
  above = choose(a != a, a, above);
  under = choose(c != c, c, under);
  I below = ((under > above) | (under != under)) & (above == above);
  V best = choose(below, under, above);
  I k = (right & 1 & ~below) | (((right_below & 1) | 2) & below);
  I alive = best > 0;
  *winner = __builtin_convertvector((k & alive) | (~alive & DEAD), B);
  return keep(~(best < 0), best);
}

/* A row of pooled pixels that has fewer lanes than a vector: several of them are put side by side. */
static void pool_few(const float *upper, const float *lower, Index pixels, Index lanes, float *y, uint8_t *argmax, Index y_pixel) {
  Index n = 0, pixel = 0;
  for (Index left = pixels * lanes; left > 0; left -= W) {
    float corner[4][W] = {{0}}, result[W];
    uint8_t chosen[W];
    Index count = least(left, W), to[W];
    for (Index i = 0; i < count; i++) {
      corner[0][i] = upper[n];
      corner[1][i] = upper[lanes + n];
      corner[2][i] = lower[n];
      corner[3][i] = lower[lanes + n];
      to[i] = pixel + n;
      if (++n == lanes) {
        n = 0;
        upper += 2 * lanes;
        lower += 2 * lanes;
        pixel += y_pixel;
      }
    }
    B winner;
    store(result, pool_vectors(load(corner[0]), load(corner[1]), load(corner[2]), load(corner[3]), &winner));
    memcpy(chosen, &winner, sizeof winner);
    for (Index i = 0; i < count; i++) {
      y[to[i]] = result[i];
      if (argmax) argmax[to[i]] = chosen[i];
    }
  }
}

/* y = max of 2x2 pixels of `rows` (F x 2 x columns x lanes), then ReLU, and its argmax. */
static void pool_pair(const float *rows, Index F, Index columns, Index lanes, float *y, uint8_t *argmax, Index y_channel, Index y_pixel) {
  Index row = columns * lanes;
  for (Index f = 0; f < F; f++, rows += 2 * row, y += y_channel, argmax = argmax ? argmax + y_channel : NULL) {
    if (lanes < W) {
      pool_few(rows, rows + row, columns / 2, lanes, y, argmax, y_pixel);
      continue;
    }
    for (Index j = 0; j < columns / 2; j++) {
      const float *upper = rows + 2 * j * lanes, *lower = upper + row;
      float *to = y + j * y_pixel;
      uint8_t *chosen = argmax ? argmax + j * y_pixel : NULL;
      for (Index n = 0; n < lanes; n += W) {
        Index at = least(n, lanes - W); /* the last vector may overlap the one before */
        B winner;
        store(to + at, pool_vectors(load(upper + at), load(upper + lanes + at), load(lower + at), load(lower + lanes + at), &winner));
        if (chosen) *(B *)(chosen + at) = winner;
      }
    }
  }
}

/* The output pixels of a tile. */
typedef struct {
  Index g, n, row, rows, left, columns;
  float *sums, *pair; /* memory: see correlate_run; two rows before pooling */
} Pixels;

/* All pixels of a tile, for blocks first .. end-1 of the filters. */
static void correlate_tile(const Plan *plan, const Tile *tile, const Pixels *at, const Index *column, Index first_block, Index end_block) {
  const Correlation *p = plan->p;
  const Taps *t = &p->taps;
  Index blocks = filter_blocks(p->F), first = p->F * first_block / blocks, F = p->F * end_block / blocks - first;
  Index lanes = tile->lanes, row_lanes = at->columns * lanes;
  float *y = p->y + (at->g * p->F + first) * p->y_channel + at->n;
  Run run = {.kh = 0, .KH = t->KH, .kw = 0, .KW = t->KW, .y_filter = p->y_channel, .y_pixel = p->y_pixel, .y_row = p->y_row};
  if (plan->merged) {
    run.x = tile->data;
    run.row = tile->row;
    run.row_lanes = row_lanes;
    run.lanes = (at->rows - 1) * tile->row + row_lanes;
    run.y = y + at->row * p->y_row + at->left * p->y_pixel;
    correlate_run(plan, tile, &run, column, at->g, first_block, end_block, at->sums);
    return;
  }
  if (p->pool) {
    run.y_filter = 2 * row_lanes;
    run.y_pixel = lanes;
  }
  for (Index r = 0; r < at->rows; r++) {
    Index base = (at->row + r) * t->SH + t->row;
    run.kh = first_tap(base, t->row_step, t->KH);
    run.KH = most(end_tap(base, t->row_step, p->x.H, t->KH) - run.kh, 0);
    float *y_row = p->pool ? at->pair + r % 2 * row_lanes : y + (at->row + r) * p->y_row + at->left * p->y_pixel;
    for (Index q = 0, next; q < at->columns; q = next) { /* runs of columns with the same taps in the image */
      Index edge = (at->left + q) * t->SW + t->column, end = end_tap(edge, t->column_step, p->x.W, t->KW);
      run.kw = first_tap(edge, t->column_step, t->KW);
      for (next = q + 1; next < at->columns; next++) {
        edge += t->SW;
        if (lanes >= W && (first_tap(edge, t->column_step, t->KW) != run.kw || end_tap(edge, t->column_step, p->x.W, t->KW) != end))
          break;
      }
      if (lanes < W) {
        run.kw = 0;
        end = t->KW;
      }
      run.KW = most(end - run.kw, 0);
      run.x = tile->data + r * t->SH * tile->row + q * lanes;
      run.row = run.row_lanes = run.lanes = (next - q) * lanes;
      run.y = y_row + q * run.y_pixel;
      correlate_run(plan, tile, &run, column, at->g, first_block, end_block, at->sums);
    }
    if (p->pool && r % 2) {
      Index to = (at->row + r) / 2 * p->y_row + at->left / 2 * p->y_pixel + (at->g * p->F + first) * p->y_channel + at->n;
      pool_pair(at->pair, F, at->columns, lanes, p->y + to, p->argmax ? p->argmax + to : NULL, p->y_channel, p->y_pixel);
    }
  }
}

static void correlate_part(void *job, Index part) {
  Plan *plan = job;
  const Correlation *p = plan->p;
  const Taps *t = &p->taps;
  Index unit = plan->unit, OH = p->OH / unit * unit, OW = p->OW / unit * unit, blocks = filter_blocks(p->F);
  Index j = part % plan->column_cuts, i = part / plan->column_cuts % plan->row_cuts;
  part /= plan->column_cuts * plan->row_cuts;
  Index cut = part % image_cuts(p->N), share = part / image_cuts(p->N) % plan->filter_cuts, lanes = images_of(p->N, cut);
  Index first_block = blocks * share / plan->filter_cuts, end_block = blocks * (share + 1) / plan->filter_cuts;
  Pixels at = {.g = part / image_cuts(p->N) / plan->filter_cuts, .n = cut * IMAGES_OF_A_TILE};
  at.row = cut_at(OH, plan->row_cuts, i, unit);
  at.rows = cut_at(OH, plan->row_cuts, i + 1, unit) - at.row;
  at.left = cut_at(OW, plan->column_cuts, j, unit);
  at.columns = cut_at(OW, plan->column_cuts, j + 1, unit) - at.left;
  if (!at.rows || !at.columns) return;

  Tile tile;
  Index size = lay_out(&tile, t, p->C, at.rows, at.columns, lanes, plan->merged);
  Index sums = 2 * p->F * plan->vectors * W, pair = p->pool ? p->F * 2 * at.columns * lanes : 0;
  tile.data = scratch(OWN, (size + sums + pair + 3 * LINE) * 4);
  if (!tile.data) {
    __atomic_store_n(&plan->failed, 1, __ATOMIC_RELAXED);
    return;
  }
  at.sums = tile.data + ceiling(size, LINE) * LINE;
  at.pair = at.sums + ceiling(sums, LINE) * LINE;
  load_tile(&tile, &p->x, t, p->N, at.n, at.g * p->C, p->C, at.row, at.rows, at.left, at.columns, plan->merged);
  memset(tile.data + size - LINE, 0, LINE * sizeof(float));
  Index column[LARGEST_KERNEL];
  for (Index k = 0; k < t->KW; k++) column[k] = column_offset(&tile, t, k);
  for (Index block = first_block; block < end_block; block += plan->together)
    correlate_tile(plan, &tile, &at, column, block, least(block + plan->together, end_block));
}

/* A 1x1 convolution at stride 1 is one of a single long row. */
static Correlation flattened(Correlation p) {
  const Taps *t = &p.taps;
  int plain = t->KH == 1 && t->KW == 1 && t->SH == 1 && t->SW == 1 && !t->row && !t->column && !p.pool && !p.x.argmax;
  if (plain && p.OH == p.x.H && p.OW == p.x.W && p.x.row == p.OW * p.N && p.y_row == p.OW * p.N && p.y_pixel == p.N) {
    p.OW = p.x.W = p.OH * p.OW * p.N;
    p.OH = p.x.H = p.N = p.y_pixel = 1;
    p.x.row = p.y_row = p.OW;
  }
  return p;
}

static int correlate(const Correlation *p, int threads) {
  Index weights = p->G * p->F * p->C * p->taps.KH * p->taps.KW;
  Correlation flat = flattened(*p);
  Plan plan = {.p = &flat};
  if (!p->N || !p->F || !p->OH || !p->OW) return 1;
  float *packed = scratch(SHARED, (weights + LINE) * 4);
  if (!packed) return 0;
  Packing packing = {&flat, packed};
  plan.w = packed;
  parallel(p->G * filter_blocks(p->F), weights > 100000 ? threads : 1, pack_filters, &packing);
  plan_parts(&plan, &flat);
  parallel(p->G * plan.filter_cuts * image_cuts(flat.N) * plan.row_cuts * plan.column_cuts, threads, correlate_part, &plan);
  return !plan.failed;
}
