/* The extension module: it checks every array before a kernel sees it, and lets other Python threads run meanwhile.
 *
 * Arrays come by the buffer protocol. Images have the shape (N, C, H, W) and must lie batch last. A kernel reads and writes only what
 * these checks have covered; whatever does not fit raises TypeError or ValueError and nothing is written. */
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <limits.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "kernels.h"
#include "product.h"

static const Kernels *kernels;

static const Kernels *of_this_processor(const char *asked) {
#if defined(__x86_64__)
  __builtin_cpu_init();
  int has_avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  int has_avx512 = has_avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") &&
                   __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512bw");
  const Kernels *all[] = {has_avx512 ? &kernels_avx512 : NULL, has_avx2 ? &kernels_avx2 : NULL, &kernels_generic};
#else
  const Kernels *all[] = {&kernels_generic};
#endif
  for (size_t i = 0; i < sizeof all / sizeof *all; i++)
    if (all[i] && (!*asked || !strcmp(asked, all[i]->name))) return all[i];
  return NULL;
}

/* --- arguments --- */

enum { MOST_ARRAYS = 10 };

/* The arguments of one call, taken from left to right, and the buffers to be released after it. */
typedef struct {
  const char *name;
  PyObject *const *left;
  Py_ssize_t count;
  Py_buffer buffers[MOST_ARRAYS];
  int used;
  int failed;
} Call;

static void end_call(Call *call) {
  for (int i = 0; i < call->used; i++) PyBuffer_Release(&call->buffers[i]);
}

static PyObject *next_argument(Call *call) {
  if (call->failed) return NULL;
  if (!call->count) {
    PyErr_Format(PyExc_TypeError, "%s: too few arguments", call->name);
    call->failed = 1;
    return NULL;
  }
  call->count--;
  return *call->left++;
}

static Index integer(Call *call) {
  PyObject *argument = next_argument(call);
  if (!argument) return 0;
  Index value = PyNumber_AsSsize_t(argument, PyExc_OverflowError);
  if (value == -1 && PyErr_Occurred()) call->failed = 1;
  return value;
}

static double number(Call *call) {
  PyObject *argument = next_argument(call);
  if (!argument) return 0;
  double value = PyFloat_AsDouble(argument);
  if (value == -1 && PyErr_Occurred()) call->failed = 1;
  return value;
}

static void refuse(Call *call, const char *what, const char *expected) {
  if (call->failed) return;
  PyErr_Format(PyExc_ValueError, "%s: %s: expected %s", call->name, what, expected);
  call->failed = 1;
}

enum { READ = 0, WRITE = 1 };

/* The next argument as an array of numbers of `kind` ('f' float, 'u' byte, 'i' 64-bit integer), or NULL for None. */
static Py_buffer *array(Call *call, int writable, char kind, const char *what) {
  PyObject *argument = next_argument(call);
  if (!argument || Py_IsNone(argument)) return NULL;
  Py_buffer *view = &call->buffers[call->used];
  if (PyObject_GetBuffer(argument, view, PyBUF_STRIDES | PyBUF_FORMAT | (writable ? PyBUF_WRITABLE : 0))) {
    call->failed = 1;
    return NULL;
  }
  call->used++;
  const char *format = view->format ? view->format : "B";
  int fits = kind == 'f'   ? !strcmp(format, "f") && view->itemsize == 4
             : kind == 'u' ? !strcmp(format, "B") && view->itemsize == 1
                           : (!strcmp(format, "l") || !strcmp(format, "q")) && view->itemsize == 8;
  if (!fits) {
    refuse(call, what, kind == 'f' ? "float32" : kind == 'u' ? "uint8" : "int64");
    return NULL;
  }
  if ((uintptr_t)view->buf % (uintptr_t)view->itemsize) {
    refuse(call, what, "aligned memory");
    return NULL;
  }
  return view;
}

/* An array of `count` numbers without gaps, in C order or, of images, batch last (its axes are not looked at). */
static void *flat(Call *call, int writable, char kind, Index count, int optional, const char *what) {
  Py_buffer *view = array(call, writable, kind, what);
  if (!view) {
    if (!optional) refuse(call, what, "an array");
    return NULL;
  }
  if (view->len != count * view->itemsize) refuse(call, what, "another number of elements");
  else if (!PyBuffer_IsContiguous(view, 'C')) refuse(call, what, "C-contiguous memory");
  return call->failed ? NULL : view->buf;
}

typedef struct {
  void *data;
  Index N, C, H, W, channel, row;
} Batch4;

/* (N, C, H, W) with the batch last: the pixels of a row side by side; rows and channels of what is only read may lie anywhere, of
 * what is written without gaps. */
static Batch4 images(Call *call, int writable, char kind, int optional, const char *what) {
  Batch4 a = {0};
  Py_buffer *view = array(call, writable, kind, what);
  if (!view) {
    if (!optional) refuse(call, what, "an array");
    return a;
  }
  if (view->ndim != 4) {
    refuse(call, what, "4 dimensions");
    return a;
  }
  Index size = view->itemsize, step[4];
  for (int i = 0; i < 4; i++) {
    step[i] = view->strides[i] / size;
    if (view->strides[i] % size) refuse(call, what, "aligned memory");
  }
  a = (Batch4){view->buf, view->shape[0], view->shape[1], view->shape[2], view->shape[3], step[1], step[2]};
  if (!view->len) return a;
  int last = (a.N < 2 || step[0] == 1) && (a.W < 2 || step[3] == a.N);
  if (a.H < 2) a.row = a.W * a.N;
  if (a.C < 2) a.channel = a.H * a.row;
  if (writable) last = last && a.row == a.W * a.N && a.channel == a.H * a.row;
  if (!last) refuse(call, what, "the batch last in memory");
  return a;
}

static void finish_arguments(Call *call) {
  if (call->count && !call->failed) {
    PyErr_Format(PyExc_TypeError, "%s: too many arguments", call->name);
    call->failed = 1;
  }
}

static void expect(Call *call, int condition, const char *what) {
  if (!condition) refuse(call, what, "a shape that fits the others");
}

static PyObject *finish(Call *call, int worked) {
  end_call(call);
  if (!worked) return PyErr_NoMemory();
  return Py_NewRef(Py_None);
}

static PyObject *give_up(Call *call) {
  end_call(call);
  return NULL;
}

#define CALL(NAME) Call call = {.name = NAME, .left = arguments, .count = count}
#define RUN(...) \
  Py_BEGIN_ALLOW_THREADS __VA_ARGS__; \
  Py_END_ALLOW_THREADS

/* --- windows --- */

typedef struct {
  Index KH, KW, SH, SW, top, bottom, left, right, DH, DW;
} Window;

enum { LARGEST = 1 << 20 };

static Window window(Call *call) {
  Window w;
  Index *fields[] = {&w.KH, &w.KW, &w.SH, &w.SW, &w.top, &w.bottom, &w.left, &w.right, &w.DH, &w.DW};
  for (size_t i = 0; i < sizeof fields / sizeof *fields; i++) *fields[i] = integer(call);
  int sensible = w.KH > 0 && w.KW > 0 && w.SH > 0 && w.SW > 0 && w.DH > 0 && w.DW > 0 && w.KH <= LARGEST && w.KW <= LARGEST &&
                 w.SH <= LARGEST && w.SW <= LARGEST && w.DH <= LARGEST && w.DW <= LARGEST && labs(w.top) <= LARGEST &&
                 labs(w.bottom) <= LARGEST && labs(w.left) <= LARGEST && labs(w.right) <= LARGEST;
  if (!sensible) refuse(call, "window", "positive sizes, strides and dilations");
  return w;
}

static Index outputs(Index n, Index before, Index after, Index K, Index S, Index D) {
  Index room = n + before + after - (D * (K - 1) + 1);
  return room < 0 ? 0 : room / S + 1;
}

static int fits_output(const Window *w, Index H, Index W, Index OH, Index OW) {
  return OH == outputs(H, w->top, w->bottom, w->KH, w->SH, w->DH) && OW == outputs(W, w->left, w->right, w->KW, w->SW, w->DW);
}

static Images to_read(const Batch4 *a) {
  return (Images){.data = a->data, .channel = a->channel, .row = a->row, .H = a->H, .W = a->W};
}

/* The gradient of pooled pixels as that of OH x OW unpooled ones. */
static Images unpooled(const Batch4 *dy, const Batch4 *argmax, Index OH, Index OW) {
  return (Images){dy->data, argmax->data, dy->channel, dy->row, argmax->channel, argmax->row, OH, OW, dy->H, dy->W};
}

/* --- convolution --- */

static PyObject *conv2d(PyObject *self, PyObject *const *arguments, Py_ssize_t count) {
  (void)self;
  CALL("conv2d");
  Batch4 x = images(&call, READ, 'f', 0, "x");
  Index F = integer(&call), G = integer(&call);
  Window t = window(&call);
  if (!call.failed && (G < 1 || F < 0 || F % G || x.C % G)) refuse(&call, "groups", "a divisor of the channels and filters");
  if (t.KH > LARGEST_KERNEL || t.KW > LARGEST_KERNEL) refuse(&call, "window", "at most 64x64");
  if (call.failed) return give_up(&call);
  const float *w = flat(&call, READ, 'f', F * (x.C / G) * t.KH * t.KW, 0, "w");
  const float *b = flat(&call, READ, 'f', F, 1, "b");
  Batch4 y = images(&call, WRITE, 'f', 0, "y");
  Batch4 argmax = images(&call, WRITE, 'u', 1, "argmax");
  int activation = (int)integer(&call), pool = integer(&call) != 0;
  float factor = (float)number(&call), shift = (float)number(&call);
  int threads = (int)integer(&call);
  finish_arguments(&call);
  expect(&call, activation >= NONE && activation <= HARD_SIGMOID, "activation");
  Index OH = outputs(x.H, t.top, t.bottom, t.KH, t.SH, t.DH), OW = outputs(x.W, t.left, t.right, t.KW, t.SW, t.DW);
  expect(&call, y.N == x.N && y.C == F && y.H == OH / (pool + 1) && y.W == OW / (pool + 1), "y");
  if (argmax.data) expect(&call, pool && argmax.N == y.N && argmax.C == y.C && argmax.H == y.H && argmax.W == y.W, "argmax");
  float *zeros = !b && F ? calloc((size_t)F, sizeof *zeros) : NULL;
  if (call.failed || (!b && F && !zeros)) {
    free(zeros);
    if (!call.failed) PyErr_NoMemory();
    return give_up(&call);
  }
  Index area = t.KH * t.KW, C = x.C / G;
  Correlation p = {
      .x = to_read(&x),
      .taps = {t.KH, t.KW, t.SH, t.SW, -t.top, t.DH, -t.left, t.DW},
      .w = {w, F / G * C * area, C * area, area, t.KW, 1},
      .bias = b ? b : zeros,
      .y = y.data, .argmax = argmax.data, .y_channel = y.channel, .y_row = y.row, .y_pixel = y.N,
      .N = x.N, .C = C, .F = F / G, .G = G, .OH = OH, .OW = OW, .activation = activation, .pool = pool,
      .factor = factor, .shift = shift,
  };
  int worked;
  RUN(worked = kernels->correlate(&p, threads))
  free(zeros);
  return finish(&call, worked);
}

/* The gradient of pixels with the same remainder modulo the stride is a correlation of its own, at stride 1, with the taps that meet
 * these pixels, last first. */
static int input_gradient(const Images *dy, const Batch4 *dx, const float *w, const float *zeros, Index F, Index G, const Window *t,
                          Index H, Index W, int threads) {
  Index C = dx->C / G, area = t->KH * t->KW;
  for (Index rh = 0; rh < t->SH && rh < H; rh++)
    for (Index rw = 0; rw < t->SW && rw < W; rw++) {
      /* taps kh with (rh + top - kh DH) divisible by SH: the first of them and the step from one to the next */
      Index kh = 0, kw = 0, step_h = 1, step_w = 1;
      while (kh < t->KH && (rh + t->top - kh * t->DH) % t->SH) kh++;
      while (kw < t->KW && (rw + t->left - kw * t->DW) % t->SW) kw++;
      while (step_h * t->DH % t->SH) step_h++;
      while (step_w * t->DW % t->SW) step_w++;
      Index KH = kh < t->KH ? (t->KH - 1 - kh) / step_h + 1 : 0, KW = kw < t->KW ? (t->KW - 1 - kw) / step_w + 1 : 0;
      Index last_h = kh + (KH - 1) * step_h, last_w = kw + (KW - 1) * step_w;
      if (!KH || !KW) KH = KW = last_h = last_w = 0;
      Correlation p = {
          .x = *dy,
          .taps = {KH, KW, 1, 1, (rh + t->top - last_h * t->DH) / t->SH, step_h * t->DH / t->SH,
                   (rw + t->left - last_w * t->DW) / t->SW, step_w * t->DW / t->SW},
          .w = {w + last_h * t->KW + last_w, F / G * C * area, area, C * area, -step_h * t->KW, -step_w},
          .bias = zeros,
          .y = (float *)dx->data + rh * dx->row + rw * dx->N,
          .y_channel = dx->channel, .y_row = t->SH * dx->row, .y_pixel = t->SW * dx->N,
          .N = dx->N, .C = F / G, .F = C, .G = G,
          .OH = (H - rh + t->SH - 1) / t->SH, .OW = (W - rw + t->SW - 1) / t->SW,
      };
      if (!kernels->correlate(&p, threads)) return 0;
    }
  return 1;
}

/* dy may be the gradient after pooling; argmax then says where it goes. */
static PyObject *conv2d_gradients(PyObject *self, PyObject *const *arguments, Py_ssize_t count) {
  (void)self;
  CALL("conv2d_gradients");
  Batch4 x = images(&call, READ, 'f', 1, "x");
  Batch4 dy = images(&call, READ, 'f', 0, "dy");
  Batch4 argmax = images(&call, READ, 'u', 1, "argmax");
  Index N = integer(&call), channels = integer(&call), H = integer(&call), W = integer(&call), F = integer(&call), G = integer(&call);
  Window t = window(&call);
  if (!call.failed && (G < 1 || F < 0 || channels < 0 || F % G || channels % G || N < 0 || H < 0 || W < 0))
    refuse(&call, "groups", "a divisor of the channels and filters");
  if (t.KH > LARGEST_KERNEL || t.KW > LARGEST_KERNEL) refuse(&call, "window", "at most 64x64");
  if (call.failed) return give_up(&call);
  Index weights = F * (channels / G) * t.KH * t.KW;
  const float *w = flat(&call, READ, 'f', weights, 1, "w");
  Batch4 dx = images(&call, WRITE, 'f', 1, "dx");
  float *dw = flat(&call, WRITE, 'f', weights, 1, "dw");
  float *db = flat(&call, WRITE, 'f', F, 1, "db");
  int threads = (int)integer(&call);
  finish_arguments(&call);
  Index OH = outputs(H, t.top, t.bottom, t.KH, t.SH, t.DH), OW = outputs(W, t.left, t.right, t.KW, t.SW, t.DW);
  int pool = argmax.data != NULL;
  expect(&call, dy.N == N && dy.C == F && dy.H == OH / (pool + 1) && dy.W == OW / (pool + 1), "dy");
  if (pool) expect(&call, argmax.N == dy.N && argmax.C == dy.C && argmax.H == dy.H && argmax.W == dy.W, "argmax");
  if (dx.data) expect(&call, w && dx.N == N && dx.C == channels && dx.H == H && dx.W == W, "dx");
  if (dw || db) expect(&call, dw && db && x.N == N && x.C == channels && x.H == H && x.W == W, "x");
  float *zeros = channels ? calloc((size_t)channels, sizeof *zeros) : NULL;
  if (call.failed || (channels && !zeros)) {
    free(zeros);
    if (!call.failed) PyErr_NoMemory();
    return give_up(&call);
  }
  Images gradient = pool ? unpooled(&dy, &argmax, OH, OW) : to_read(&dy);
  WeightGradient p = {
      .x = to_read(&x), .dy = gradient, .taps = {t.KH, t.KW, t.SH, t.SW, -t.top, t.DH, -t.left, t.DW},
      .dw = dw, .db = db, .N = N, .C = channels / G, .F = F / G, .G = G, .OH = OH, .OW = OW,
  };
  int worked = 1;
  RUN(if (dw) worked = kernels->weight_gradient(&p, threads);
      if (dx.data && worked) worked = input_gradient(&gradient, &dx, w, zeros, F, G, &t, H, W, threads))
  free(zeros);
  return finish(&call, worked);
}

/* --- pooling --- */

static Pooling pooling(const Batch4 *x, Index OH, Index OW, const Window *t) {
  return (Pooling){x->N, x->C, x->H, x->W, OH, OW, t->KH, t->KW, t->SH, t->SW, t->DH, t->DW, t->top, t->left};
}

static PyObject *max_pool2d(PyObject *self, PyObject *const *arguments, Py_ssize_t count) {
  (void)self;
  CALL("max_pool2d");
  Batch4 x = images(&call, READ, 'f', 0, "x");
  Window t = window(&call);
  Batch4 y = images(&call, WRITE, 'f', 0, "y");
  Batch4 argmax = images(&call, WRITE, 'u', 1, "argmax");
  int threads = (int)integer(&call);
  finish_arguments(&call);
  expect(&call, y.N == x.N && y.C == x.C && fits_output(&t, x.H, x.W, y.H, y.W), "y");
  expect(&call, x.row == x.W * x.N && (x.C < 2 || x.channel == x.H * x.row), "x");
  if (argmax.data) expect(&call, t.KH * t.KW <= 256 && argmax.N == y.N && argmax.C == y.C && argmax.H == y.H && argmax.W == y.W, "argmax");
  if (call.failed) return give_up(&call);
  Pooling p = pooling(&x, y.H, y.W, &t);
  RUN(kernels->max_pool(&p, x.data, y.data, argmax.data, threads))
  return finish(&call, 1);
}

static PyObject *avg_pool2d(PyObject *self, PyObject *const *arguments, Py_ssize_t count) {
  (void)self;
  CALL("avg_pool2d");
  Batch4 x = images(&call, READ, 'f', 0, "x");
  Window t = window(&call);
  Batch4 y = images(&call, WRITE, 'f', 0, "y");
  const float *share = flat(&call, READ, 'f', y.H * y.W, 0, "share");
  int threads = (int)integer(&call);
  finish_arguments(&call);
  expect(&call, y.N == x.N && y.C == x.C && fits_output(&t, x.H, x.W, y.H, y.W), "y");
  expect(&call, x.row == x.W * x.N && (x.C < 2 || x.channel == x.H * x.row), "x");
  if (call.failed) return give_up(&call);
  Pooling p = pooling(&x, y.H, y.W, &t);
  RUN(kernels->average_pool(&p, x.data, share, y.data, threads))
  return finish(&call, 1);
}

/* Of max-pooling with argmax, of average pooling with share. */
static PyObject *pool2d_gradient(PyObject *self, PyObject *const *arguments, Py_ssize_t count) {
  (void)self;
  CALL("pool2d_gradient");
  Batch4 dy = images(&call, READ, 'f', 0, "dy");
  Batch4 argmax = images(&call, READ, 'u', 1, "argmax");
  const float *share = flat(&call, READ, 'f', dy.H * dy.W, 1, "share");
  Window t = window(&call);
  Batch4 dx = images(&call, WRITE, 'f', 0, "dx");
  int threads = (int)integer(&call);
  finish_arguments(&call);
  expect(&call, dy.N == dx.N && dy.C == dx.C && fits_output(&t, dx.H, dx.W, dy.H, dy.W), "dy");
  expect(&call, dy.row == dy.W * dy.N && (dy.C < 2 || dy.channel == dy.H * dy.row), "dy");
  expect(&call, !argmax.data != !share, "share");
  if (argmax.data)
    expect(&call, argmax.N == dy.N && argmax.C == dy.C && argmax.H == dy.H && argmax.W == dy.W && argmax.row == argmax.W * argmax.N &&
                      (argmax.C < 2 || argmax.channel == argmax.H * argmax.row), "argmax");
  if (call.failed) return give_up(&call);
  Pooling p = pooling(&dx, dy.H, dy.W, &t);
  RUN(kernels->pool_gradient(&p, dy.data, argmax.data, share, dx.data, threads))
  return finish(&call, 1);
}

/* --- batch normalisation: arrays are (C, M) in memory --- */

static PyObject *batch_norm(PyObject *self, PyObject *const *arguments, Py_ssize_t count) {
  (void)self;
  CALL("batch_norm");
  Index C = integer(&call), M = integer(&call);
  if (C < 0 || M < 0 || (M && C > PTRDIFF_MAX / 8 / M)) refuse(&call, "sizes", "sizes of arrays");
  if (call.failed) return give_up(&call);
  BatchNorm p = {.C = C, .M = M};
  p.x = flat(&call, READ, 'f', C * M, 0, "x");
  p.residual = flat(&call, READ, 'f', C * M, 1, "residual");
  p.weight = flat(&call, READ, 'f', C, 1, "weight");
  p.bias = flat(&call, READ, 'f', C, 1, "bias");
  p.y = flat(&call, WRITE, 'f', C * M, 1, "y");
  p.mean = flat(&call, WRITE, 'f', C, 0, "mean");
  p.var = flat(&call, WRITE, 'f', C, 1, "var");
  p.factor = flat(&call, WRITE, 'f', C, 0, "factor");
  p.eps = number(&call);
  p.training = integer(&call) != 0;
  p.relu = integer(&call) != 0;
  int threads = (int)integer(&call);
  finish_arguments(&call);
  if (p.training && !p.var) refuse(&call, "var", "an array, in training");
  if (call.failed) return give_up(&call);
  RUN(kernels->batch_norm(&p, threads))
  return finish(&call, 1);
}

static PyObject *batch_norm_gradient(PyObject *self, PyObject *const *arguments, Py_ssize_t count) {
  (void)self;
  CALL("batch_norm_gradient");
  Index C = integer(&call), M = integer(&call);
  if (C < 0 || M < 0 || (M && C > PTRDIFF_MAX / 8 / M)) refuse(&call, "sizes", "sizes of arrays");
  if (call.failed) return give_up(&call);
  BatchNorm p = {.C = C, .M = M};
  p.dy = flat(&call, READ, 'f', C * M, 0, "dy");
  p.x = flat(&call, READ, 'f', C * M, 0, "x");
  p.y = (float *)flat(&call, READ, 'f', C * M, 1, "y");
  p.weight = flat(&call, READ, 'f', C, 1, "weight");
  p.mean = (float *)flat(&call, READ, 'f', C, 0, "mean");
  p.factor = (float *)flat(&call, READ, 'f', C, 0, "factor");
  p.dx = flat(&call, WRITE, 'f', C * M, 0, "dx");
  p.dresidual = flat(&call, WRITE, 'f', C * M, 1, "dresidual");
  p.dweight = flat(&call, WRITE, 'f', C, 1, "dweight");
  p.dbias = flat(&call, WRITE, 'f', C, 1, "dbias");
  p.training = integer(&call) != 0;
  p.relu = p.y != NULL;
  int threads = (int)integer(&call);
  finish_arguments(&call);
  if (call.failed) return give_up(&call);
  RUN(kernels->batch_norm_gradient(&p, threads))
  return finish(&call, 1);
}

/* --- number by number --- */

static PyObject *relu(PyObject *self, PyObject *const *arguments, Py_ssize_t count) {
  (void)self;
  CALL("relu");
  Index n = integer(&call);
  const float *x = flat(&call, READ, 'f', n, 0, "x"), *added = flat(&call, READ, 'f', n, 1, "added");
  float *y = flat(&call, WRITE, 'f', n, 0, "y");
  int threads = (int)integer(&call);
  finish_arguments(&call);
  if (call.failed) return give_up(&call);
  RUN(kernels->relu(n, x, added, y, threads))
  return finish(&call, 1);
}

static PyObject *hardswish(PyObject *self, PyObject *const *arguments, Py_ssize_t count) {
  (void)self;
  CALL("hardswish");
  Index n = integer(&call);
  const float *x = flat(&call, READ, 'f', n, 0, "x");
  float *y = flat(&call, WRITE, 'f', n, 0, "y");
  float factor = (float)number(&call), shift = (float)number(&call);
  int threads = (int)integer(&call);
  finish_arguments(&call);
  if (call.failed) return give_up(&call);
  RUN(kernels->hardswish(n, x, y, factor, shift, threads))
  return finish(&call, 1);
}

static PyObject *relu_gradient(PyObject *self, PyObject *const *arguments, Py_ssize_t count) {
  (void)self;
  CALL("relu_gradient");
  Index n = integer(&call);
  const float *dy = flat(&call, READ, 'f', n, 0, "dy"), *y = flat(&call, READ, 'f', n, 0, "y");
  float *dx = flat(&call, WRITE, 'f', n, 0, "dx");
  int threads = (int)integer(&call);
  finish_arguments(&call);
  if (call.failed) return give_up(&call);
  RUN(kernels->relu_gradient(n, dy, y, dx, threads))
  return finish(&call, 1);
}

/* logits and gradient: (C, N) in memory; labels of no class are an IndexError. */
static PyObject *cross_entropy(PyObject *self, PyObject *const *arguments, Py_ssize_t count) {
  (void)self;
  CALL("cross_entropy");
  Index N = integer(&call), C = integer(&call);
  if (N < 0 || C < 0 || (N && C > PTRDIFF_MAX / 8 / N)) refuse(&call, "sizes", "sizes of arrays");
  if (call.failed) return give_up(&call);
  const float *x = flat(&call, READ, 'f', N * C, 0, "logits");
  const int64_t *target = flat(&call, READ, 'i', N, 0, "target");
  float *loss = flat(&call, WRITE, 'f', N, 0, "loss"), *gradient = flat(&call, WRITE, 'f', N * C, 1, "gradient");
  int threads = (int)integer(&call);
  finish_arguments(&call);
  if (call.failed) return give_up(&call);
  for (Index n = 0; n < N; n++)
    if (target[n] < 0 || target[n] >= C) {
      PyErr_Format(PyExc_IndexError, "cross_entropy: target: expected 0 to %zd", (Py_ssize_t)(C - 1));
      return give_up(&call);
    }
  RUN(kernels->cross_entropy(N, C, x, N, target, loss, gradient, N, threads))
  return finish(&call, 1);
}

static PyObject *sgd_update(PyObject *self, PyObject *const *arguments, Py_ssize_t count) {
  (void)self;
  CALL("sgd_update");
  Update u = {.n = integer(&call)};
  u.p = flat(&call, WRITE, 'f', u.n, 0, "p");
  u.g = flat(&call, READ, 'f', u.n, 0, "g");
  u.m = flat(&call, WRITE, 'f', u.n, 1, "velocity");
  u.lr = (float)number(&call);
  u.beta1 = (float)number(&call);
  u.weight_decay = (float)number(&call);
  u.nesterov = integer(&call) != 0;
  int threads = (int)integer(&call);
  finish_arguments(&call);
  if (call.failed) return give_up(&call);
  RUN(kernels->update(&u, threads))
  return finish(&call, 1);
}

static PyObject *adam_update(PyObject *self, PyObject *const *arguments, Py_ssize_t count) {
  (void)self;
  CALL("adam_update");
  Update u = {.n = integer(&call)};
  u.p = flat(&call, WRITE, 'f', u.n, 0, "p");
  u.g = flat(&call, READ, 'f', u.n, 0, "g");
  u.m = flat(&call, WRITE, 'f', u.n, 0, "m");
  u.v = flat(&call, WRITE, 'f', u.n, 0, "v");
  double lr = number(&call), beta1 = number(&call), beta2 = number(&call), eps = number(&call), weight_decay = number(&call);
  double step = number(&call);
  u.decoupled = integer(&call) != 0;
  int threads = (int)integer(&call);
  finish_arguments(&call);
  if (call.failed) return give_up(&call);
  u.beta1 = (float)beta1;
  u.rest1 = (float)(1 - beta1);
  u.beta2 = (float)beta2;
  u.rest2 = (float)(1 - beta2);
  u.lr = (float)(lr / (1 - pow(beta1, step)));
  u.root_factor = (float)(1 / sqrt(1 - pow(beta2, step)));
  u.eps = (float)eps;
  u.weight_decay = (float)weight_decay;
  u.decoupled = u.decoupled && weight_decay != 0;
  u.keep = (float)(1 - lr * weight_decay);
  u.clear_v = eps * eps > 0x1p-100; /* else its root counts beside eps */
  RUN(kernels->update(&u, threads))
  return finish(&call, 1);
}

/* --- batches and layouts --- */

static PyObject *gather(PyObject *self, PyObject *const *arguments, Py_ssize_t count) {
  (void)self;
  CALL("gather");
  Py_buffer *view = array(&call, READ, 'u', "images");
  if (!view) refuse(&call, "images", "an array");
  if (!call.failed && (view->ndim != 4 || !PyBuffer_IsContiguous(view, 'C'))) refuse(&call, "images", "4 dimensions in C order");
  if (call.failed) return give_up(&call);
  Index total = view->shape[0], C = view->shape[1], pixels = view->shape[2] * view->shape[3], N = integer(&call);
  const int64_t *indices = flat(&call, READ, 'i', N, 0, "indices");
  const float *scale = flat(&call, READ, 'f', C, 0, "scale"), *shift = flat(&call, READ, 'f', C, 0, "shift");
  Batch4 y = images(&call, WRITE, 'f', 0, "y");
  int threads = (int)integer(&call);
  finish_arguments(&call);
  expect(&call, y.N == N && y.C == C && y.H == view->shape[2] && y.W == view->shape[3], "y");
  if (call.failed) return give_up(&call);
  for (Index n = 0; n < N; n++)
    if (indices[n] < -total || indices[n] >= total) {
      PyErr_Format(PyExc_IndexError, "gather: indices: expected up to %zd", (Py_ssize_t)(total - 1));
      return give_up(&call);
    }
  RUN(kernels->gather(N, C, pixels, total, view->buf, indices, scale, shift, y.data, threads))
  return finish(&call, 1);
}

/* y (columns, rows) = x (rows, columns) transposed. */
static PyObject *transpose(PyObject *self, PyObject *const *arguments, Py_ssize_t count) {
  (void)self;
  CALL("transpose");
  Index rows = integer(&call), columns = integer(&call);
  if (rows < 0 || columns < 0 || (rows && columns > PTRDIFF_MAX / 8 / rows)) refuse(&call, "sizes", "sizes of arrays");
  if (call.failed) return give_up(&call);
  const float *x = flat(&call, READ, 'f', rows * columns, 0, "x");
  float *y = flat(&call, WRITE, 'f', rows * columns, 0, "y");
  int threads = (int)integer(&call);
  finish_arguments(&call);
  if (call.failed) return give_up(&call);
  RUN(kernels->transpose(rows, columns, x, columns, y, rows, threads))
  return finish(&call, 1);
}

static Matrix matrix(Call *call, Index rows, Index columns, const char *what) {
  Matrix m = {0};
  Py_buffer *view = array(call, READ, 'f', what);
  if (!view) refuse(call, what, "an array");
  if (call->failed) return m;
  if (view->ndim != 2 || view->shape[0] != rows || view->shape[1] != columns) {
    refuse(call, what, "another shape");
    return m;
  }
  m.data = view->buf;
  m.transposed = columns > 1 && view->strides[1] != 4;
  Index inner = m.transposed ? rows : columns, outer = m.transposed ? columns : rows, step = view->strides[m.transposed ? 1 : 0];
  if (m.transposed && rows > 1 && view->strides[0] != 4) refuse(call, what, "rows or columns without gaps");
  m.line = outer > 1 ? step / 4 : inner;
  if (outer > 1 && (step % 4 || m.line < inner)) refuse(call, what, "rows or columns one after another");
  return m;
}

/* y = a @ b, plus a bias of rows or columns; sgemm is the address of the BLAS's function. */
static PyObject *matmul(PyObject *self, PyObject *const *arguments, Py_ssize_t count) {
  (void)self;
  CALL("matmul");
  Product p = {0};
  PyObject *address = next_argument(&call);
  p.sgemm = (void (*)(void))(address ? PyLong_AsVoidPtr(address) : NULL);
  if (!p.sgemm && !call.failed) {
    if (!PyErr_Occurred()) refuse(&call, "sgemm", "an address");
    call.failed = 1;
  }
  p.wide = integer(&call) != 0;
  p.M = integer(&call), p.N = integer(&call), p.K = integer(&call);
  Index most = p.wide ? PTRDIFF_MAX / 8 : INT_MAX;
  if (p.M < 1 || p.N < 1 || p.K < 1 || p.M > most / p.N || p.K > most / p.N || p.K > most / p.M) refuse(&call, "sizes", "sizes of arrays");
  p.a = matrix(&call, p.M, p.K, "a");
  p.b = matrix(&call, p.K, p.N, "b");
  if (p.a.line > most || p.b.line > most) refuse(&call, "sizes", "sizes of arrays");
  p.bias_of_rows = integer(&call) != 0;
  p.bias = flat(&call, READ, 'f', p.bias_of_rows ? p.M : p.N, 1, "bias");
  p.y = flat(&call, WRITE, 'f', call.failed ? 0 : p.M * p.N, 0, "y");
  int threads = (int)integer(&call);
  finish_arguments(&call);
  if (call.failed) return give_up(&call);
  Py_BEGIN_ALLOW_THREADS
  product(&p, threads);
  Py_END_ALLOW_THREADS
  return finish(&call, 1);
}

static PyObject *workers(PyObject *self, PyObject *unused) {
  (void)self, (void)unused;
  return PyLong_FromLong(worker_count());
}

/* Choose the vector width by name ('' for the widest), and return it; ValueError for one that this processor has not. */
static PyObject *use(PyObject *self, PyObject *name) {
  (void)self;
  PyObject *bytes = PyUnicode_AsUTF8String(name);
  if (!bytes) return NULL;
  const Kernels *chosen = of_this_processor(PyBytes_AsString(bytes));
  Py_DECREF(bytes);
  if (!chosen) return PyErr_Format(PyExc_ValueError, "use: this processor has no %R", name);
  kernels = chosen;
  return PyUnicode_FromString(kernels->name);
}

#define FAST(NAME) {#NAME, (PyCFunction)(void (*)(void))NAME, METH_FASTCALL, NULL}
static PyMethodDef methods[] = {
    FAST(conv2d), FAST(conv2d_gradients), FAST(max_pool2d), FAST(avg_pool2d), FAST(pool2d_gradient), FAST(batch_norm),
    FAST(batch_norm_gradient), FAST(relu), FAST(relu_gradient), FAST(hardswish), FAST(cross_entropy), FAST(sgd_update), FAST(adam_update),
    FAST(gather), FAST(transpose), FAST(matmul),
    {"workers", workers, METH_NOARGS, NULL},
    {"use", use, METH_O, NULL},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef module = {PyModuleDef_HEAD_INIT, "_kernels", "Compiled kernels; see gpucnn.backend.native.", -1, methods,
                                    NULL, NULL, NULL, NULL};

PyMODINIT_FUNC PyInit__kernels(void) {
  kernels = of_this_processor("");
  return PyModule_Create(&module);
}
