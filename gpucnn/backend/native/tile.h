/* A tile: the part of some images that a few output pixels see, copied with its padding into memory of a thread's own, where rows
 * and channels do not fall on the same cache sets, whatever their strides were. */

typedef struct {
  float *data;
  Index lanes;                 /* images, side by side at each pixel */
  Index channel, row, phase;   /* strides; columns are held by their remainder modulo SW, so that output pixels step by `lanes` */
} Tile;

enum { LINE = 16, L1_BYTES = 20 * 1024, TILE_BYTES = 384 * 1024, IMAGES_OF_A_TILE = 32, WANTED_PARTS = 16 };
static const double LEAST_WORK = 4e6; /* floating-point operations of a part that is worth handing to another thread */

/* First and one past last tap k of K with 0 <= base + k*step < length. */
INLINE Index first_tap(Index base, Index step, Index K) { return base >= 0 ? 0 : least(ceiling(-base, step), K); }
INLINE Index end_tap(Index base, Index step, Index length, Index K) {
  if (base + (K - 1) * step < length) return K; /* the usual case, without a division */
  return base >= length ? 0 : (length - 1 - base) / step + 1;
}

INLINE Index phases(const Taps *t) { return t->KW > 1 ? t->SW : 1; }
INLINE Index rows_seen(const Taps *t, Index rows) {
  return t->KH ? (rows - 1) * t->SH + (t->KH - 1) * t->row_step + 1 : 0; /* no tap meets the pixels that a stride steps over */
}
INLINE Index columns_of_a_phase(const Taps *t, Index columns) {
  return columns + (t->KW > 1 ? ((t->KW - 1) * t->column_step) / t->SW : 0);
}
/* Numbers of a tile that `columns` x `rows` output pixels see, with what vectors may read beyond it. */
static Index lay_out(Tile *tile, const Taps *t, Index C, Index rows, Index columns, Index lanes, int pack_rows) {
  tile->lanes = lanes;
  tile->phase = columns_of_a_phase(t, columns) * lanes;
  tile->row = phases(t) * tile->phase;
  if (!pack_rows) tile->row = ceiling(tile->row, LINE) * LINE;
  tile->channel = (ceiling(rows_seen(t, rows) * tile->row, LINE) | 1) * LINE;
  return C * tile->channel + LINE;
}

/* Copy `lanes` numbers of each of `count` pixels. */
INLINE void copy_pixels(float *to, const float *from, Index count, Index step, Index lanes) {
  if (step == lanes) {
    memcpy(to, from, (size_t)(count * lanes) * sizeof(float));
    return;
  }
  for (Index i = 0; i < count; i++, from += step, to += lanes) {
    Index n = 0;
    for (; n + W <= lanes; n += W) store(to + n, load(from + n));
    for (; n < lanes; n++) to[n] = from[n];
  }
}

/* Gradients of 2x2 max-pooling for pixels first .. end-1 of row h, as the unpooled row has them. */
INLINE void spread_pixels(float *to, const float *dy, const uint8_t *argmax, Index h, Index first, Index end, Index PW, Index step,
                          Index lanes) {
  for (Index w = first; w < end; w++, to += lanes) {
    if (w / 2 >= PW) {
      memset(to, 0, (size_t)lanes * sizeof(float));
      continue;
    }
    const float *d = dy + (w / 2) * step;
    const uint8_t *a = argmax + (w / 2) * step;
    int argmax = (int)(h % 2) * 2 + (int)(w % 2);
    Index n = 0;
    for (; n + W <= lanes; n += W) {
      I chosen = __builtin_convertvector(*(const B *)(a + n), I) == argmax;
      store(to + n, keep(chosen, load(d + n)));
    }
    for (; n < lanes; n++) to[n] = a[n] == argmax ? d[n] : 0;
  }
}

/* Fill `count` pixels at `to` from row h (inside the image), columns w, w + SW, ...; zeros outside. */
INLINE void load_row(float *to, const Images *x, Index N, Index n, Index lanes, Index c, Index h, Index w, Index SW, Index count) {
  Index first = w >= 0 ? 0 : least(ceiling(-w, SW), count);
  Index end = w >= x->W ? first : most(least((x->W - 1 - w) / SW + 1, count), first);
  memset(to, 0, (size_t)(first * lanes) * sizeof(float));
  memset(to + end * lanes, 0, (size_t)((count - end) * lanes) * sizeof(float));
  if (first == end) return;
  if (!x->argmax) {
    copy_pixels(to + first * lanes, x->data + c * x->channel + h * x->row + (w + first * SW) * N + n, end - first, SW * N, lanes);
  } else if (h / 2 < x->PH) {
    spread_pixels(to + first * lanes, x->data + c * x->channel + h / 2 * x->row + n,
                  x->argmax + c * x->argmax_channel + h / 2 * x->argmax_row + n, h, w + first, w + end, x->PW, N, lanes);
  } else {
    memset(to + first * lanes, 0, (size_t)((end - first) * lanes) * sizeof(float));
  }
}

INLINE int is_seen(const Taps *t, Index row) {
  for (Index k = 0; k < t->KH && k * t->row_step <= row; k++)
    if ((row - k * t->row_step) % t->SH == 0) return 1;
  return 0;
}
INLINE int is_used(const Taps *t, Index phase) {
  for (Index k = 0; k < t->KW; k++)
    if (k * t->column_step % t->SW == phase) return 1;
  return 0;
}

/* Fill a tile with what output rows i.. and columns j.. of images n.. see of channels c... Rows outside the image stay as they
 * are, unless `clear`. */
static void load_tile(const Tile *tile, const Images *x, const Taps *t, Index N, Index n, Index c, Index C, Index i, Index rows,
                      Index j, Index columns, int clear) {
  Index top = i * t->SH + t->row, left = j * t->SW + t->column, height = rows_seen(t, rows), P = phases(t);
  Index count = columns_of_a_phase(t, columns);
  for (Index k = 0; k < C; k++)
    for (Index r = 0; r < height; r++) {
      float *row = tile->data + k * tile->channel + r * tile->row;
      if (top + r < 0 || top + r >= x->H) {
        if (clear) memset(row, 0, (size_t)tile->row * sizeof(float));
      } else if (t->SH == 1 || is_seen(t, r)) {
        for (Index p = 0; p < P; p++)
          if (is_used(t, p))
            load_row(row + p * tile->phase, x, N, n, tile->lanes, c + k, top + r, left + p, t->SW, count);
      }
    }
}

/* Where column tap k is in a tile, from an output pixel's own place. */
INLINE Index column_offset(const Tile *tile, const Taps *t, Index k) {
  return k * t->column_step % t->SW * tile->phase + k * t->column_step / t->SW * tile->lanes;
}

/* Images are cut into runs of IMAGES_OF_A_TILE, the last longer by the rest. */
INLINE Index image_cuts(Index N) { return most(N / IMAGES_OF_A_TILE, 1); }
INLINE Index images_of(Index N, Index cut) {
  return cut + 1 < image_cuts(N) ? IMAGES_OF_A_TILE : N - cut * IMAGES_OF_A_TILE;
}
/* Where part i of `count` begins, of `n` that are cut into multiples of `unit`. */
INLINE Index cut_at(Index n, Index count, Index i, Index unit) { return i == count ? n : n / unit * i / count * unit; }
