/* The kernels for every processor: vectors of four, which are SSE2 on x86-64 and NEON on ARM. */
#define WIDTH 4
#define KERNELS kernels_generic
#if defined(__aarch64__)
#define NAME "neon"
#elif defined(__x86_64__)
#define NAME "sse2"
#else
#define NAME "generic"
#endif
#include "width.h"
