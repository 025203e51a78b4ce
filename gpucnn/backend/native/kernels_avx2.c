/* The kernels for AVX2 with FMA. */
#if defined(__x86_64__)
#define WIDTH 8
#define TARGET "avx2,fma"
#define KERNELS kernels_avx2
#define NAME "avx2"
#include "width.h"
#endif
