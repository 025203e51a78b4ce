/* Vectors of WIDTH floats by the compiler's vector extension, for the file that includes this after setting WIDTH. */
#include <stdint.h>
#include <string.h>

#include "kernels.h"

enum { W = WIDTH };
typedef float V __attribute__((vector_size(4 * WIDTH), aligned(4), may_alias));
typedef int32_t I __attribute__((vector_size(4 * WIDTH), aligned(4), may_alias));
typedef uint8_t B __attribute__((vector_size(WIDTH), aligned(1), may_alias));
typedef float V4 __attribute__((vector_size(16), aligned(4), may_alias));
#if WIDTH > 4
typedef float V8 __attribute__((vector_size(32), aligned(4), may_alias));
#endif

#define INLINE static inline __attribute__((always_inline))
#define UNROLL _Pragma("GCC unroll 16")

/* Keeps the compiler from reading a vector from memory again for each use of it. */
#if defined(__x86_64__)
#define IN_REGISTER(v) __asm__("" : "+v"(v))
#elif defined(__aarch64__)
#define IN_REGISTER(v) __asm__("" : "+w"(v))
#else
#define IN_REGISTER(v) (void)(v)
#endif

INLINE V load(const float *p) { return *(const V *)p; }
INLINE void store(float *p, V v) { *(V *)p = v; }
INLINE V splat(float x) { return x - (V){0}; } /* x - 0 is x, whatever x */
INLINE V choose(I mask, V a, V b) { return (V)((mask & (I)a) | (~mask & (I)b)); }
INLINE V keep(I mask, V a) { return (V)(mask & (I)a); }
INLINE V rectified(V v) { return keep(~(v < 0), v); } /* NaN stays */
INLINE V activated(V v, int activation, float factor, float shift) {
  if (activation == RELU) return rectified(v);
  if (activation == HARD_SWISH) {
    V gate = rectified(v + 3);
    return choose(gate > 6, splat(6), gate) * v * factor + shift;
  }
  v = rectified(v * factor + shift);
  return choose(v > 1, splat(1), v);
}
INLINE I lane_numbers(void) {
  I n;
  for (int i = 0; i < W; i++) n[i] = i;
  return n;
}
/* The first n numbers at p, then zeros. */
INLINE V load_first(const float *p, Index n) {
  V v = {0};
  memcpy(&v, p, (size_t)n * sizeof(float));
  return v;
}
INLINE void store_first(float *p, V v, Index n) { memcpy(p, &v, (size_t)n * sizeof(float)); }

INLINE float sum4(V4 a) { return (a[0] + a[2]) + (a[1] + a[3]); }
#if WIDTH == 4
INLINE float sum(V v) { return sum4(v); }
#else
INLINE float sum8(V8 v) {
  V4 half[2];
  memcpy(half, &v, sizeof v);
  return sum4(half[0] + half[1]);
}
#if WIDTH == 8
INLINE float sum(V v) { return sum8(v); }
#else
INLINE float sum(V v) {
  V8 half[2];
  memcpy(half, &v, sizeof v);
  return sum8(half[0] + half[1]);
}
#endif
#endif

INLINE Index least(Index a, Index b) { return a < b ? a : b; }
INLINE Index most(Index a, Index b) { return a > b ? a : b; }
INLINE Index ceiling(Index a, Index b) { return (a + b - 1) / b; }
