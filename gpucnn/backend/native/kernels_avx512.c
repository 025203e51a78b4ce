/* The kernels for AVX-512. */
#if defined(__x86_64__)
#define WIDTH 16
#define TARGET "avx512f,avx512vl,avx512dq,avx512bw,avx2,fma"
#define KERNELS kernels_avx512
#define NAME "avx512"
#include "width.h"
#endif
