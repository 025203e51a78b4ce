/* Batch normalisation, a channel at a time: forward reads it for its moments and again, from the cache as a rule, for the result. */

enum { NUMBERS_OF_A_SUM = 4096 };

/* The mean of n numbers and the sum of the squares of their distances from it. Each run of numbers gives its own, and they are joined
 * (Chan, Golub & LeVeque 1979), so that a large mean does not swallow a small variance. */
static void moments(const float *x, Index n, double *mean, double *squares) {
  double m = 0, s = 0;
  for (Index done = 0; done < n;) {
    Index count = least(n - done, NUMBERS_OF_A_SUM), whole = count / W * W;
    V total = {0};
    float rest = 0;
    for (Index i = 0; i < whole; i += W) total += load(x + i);
    for (Index i = whole; i < count; i++) rest += x[i];
    double here = ((double)sum(total) + rest) / (double)count;
    float centre = (float)here;
    V distances = {0}, square = {0};
    float rest_distances = 0, rest_squares = 0;
    for (Index i = 0; i < whole; i += W) {
      V d = load(x + i) - centre;
      distances += d;
      square += d * d;
    }
    for (Index i = whole; i < count; i++) {
      rest_distances += x[i] - centre;
      rest_squares += (x[i] - centre) * (x[i] - centre);
    }
    double off = ((double)sum(distances) + rest_distances) / (double)count;
    here = (double)centre + off;
    double here_squares = (double)sum(square) + rest_squares - off * off * (double)count;
    double joined = (double)(done + count), apart = here - m;
    s += here_squares + apart * apart * (double)done * ((double)count / joined);
    m += apart * ((double)count / joined);
    done += count;
    x += count;
  }
  *mean = m;
  *squares = s;
}

static void norm_part(void *job, Index c) {
  const BatchNorm *p = job;
  const float *x = p->x + c * p->M, *residual = p->residual ? p->residual + c * p->M : NULL;
  if (p->training) {
    double mean, squares;
    moments(x, p->M, &mean, &squares);
    p->mean[c] = (float)mean;
    p->var[c] = (float)(squares / (double)p->M);
    p->factor[c] = (float)(1 / sqrt(squares / (double)p->M + p->eps));
  }
  if (!p->y) return;
  float *y = p->y + c * p->M;
  float mean = p->mean[c], scale = p->factor[c] * (p->weight ? p->weight[c] : 1), shift = p->bias ? p->bias[c] : 0;
  Index i = 0;
  for (; i + W <= p->M; i += W) {
    V v = (load(x + i) - mean) * scale + shift;
    if (residual) v += load(residual + i);
    if (p->relu) v = keep(~(v < 0), v);
    store(y + i, v);
  }
  for (; i < p->M; i++) {
    float v = (x[i] - mean) * scale + shift;
    if (residual) v += residual[i];
    y[i] = p->relu && v < 0 ? 0 : v;
  }
}

static void norm_gradient_part(void *job, Index c) {
  const BatchNorm *p = job;
  const float *x = p->x + c * p->M, *dy = p->dy + c * p->M, *y = p->relu ? p->y + c * p->M : NULL;
  float *dx = p->dx + c * p->M, *dresidual = p->dresidual ? p->dresidual + c * p->M : NULL;
  float mean = p->mean[c], factor = p->factor[c], scale = factor * (p->weight ? p->weight[c] : 1);
  double along = 0, total = 0; /* sums of dy (x - mean) and of dy, where ReLU let it through */
  for (Index done = 0; done < p->M;) {
    Index end = least(p->M, done + NUMBERS_OF_A_SUM);
    V a = {0}, t = {0};
    float rest_a = 0, rest_t = 0;
    for (; done + W <= end; done += W) {
      V d = load(dy + done);
      if (y) d = keep(load(y + done) > 0, d);
      a += d * (load(x + done) - mean);
      t += d;
    }
    for (; done < end; done++) {
      float d = y && !(y[done] > 0) ? 0 : dy[done];
      rest_a += d * (x[done] - mean);
      rest_t += d;
    }
    along += (double)sum(a) + rest_a;
    total += (double)sum(t) + rest_t;
  }
  if (p->dweight) p->dweight[c] = (float)(along * factor);
  if (p->dbias) p->dbias[c] = (float)total;
  float even = p->training ? (float)(total / (double)p->M) : 0;
  float slope = p->training ? (float)(along / (double)p->M * factor * factor) : 0;
  Index i = 0;
  for (; i + W <= p->M; i += W) {
    V d = load(dy + i);
    if (y) d = keep(load(y + i) > 0, d);
    if (dresidual) store(dresidual + i, d);
    store(dx + i, scale * (d - even - (load(x + i) - mean) * slope));
  }
  for (; i < p->M; i++) {
    float d = y && !(y[i] > 0) ? 0 : dy[i];
    if (dresidual) dresidual[i] = d;
    dx[i] = scale * (d - even - (x[i] - mean) * slope);
  }
}

static void batch_norm(const BatchNorm *p, int threads) {
  if (p->M) parallel(p->C, p->C * p->M > 2 * NUMBERS_OF_A_PART ? threads : 1, norm_part, (void *)p);
}
static void batch_norm_gradient(const BatchNorm *p, int threads) {
  if (p->M) parallel(p->C, p->C * p->M > 2 * NUMBERS_OF_A_PART ? threads : 1, norm_gradient_part, (void *)p);
}
