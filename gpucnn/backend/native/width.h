/* All kernels for one vector width: a file sets WIDTH, NAME, KERNELS and perhaps TARGET (instruction sets), and includes this. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "kernels.h"

#ifdef TARGET
#define STRING(x) #x
#define PRAGMA(x) _Pragma(STRING(x))
#ifdef __clang__
PRAGMA(clang attribute push(__attribute__((target(TARGET))), apply_to = function))
#else
#pragma GCC push_options
PRAGMA(GCC target(TARGET))
#endif
#endif

#include "vector.h"

#include "tile.h"

#include "correlate.h"

#include "weight_gradient.h"

#include "pool.h"

#include "norm.h"

#include "elementwise.h"

const Kernels KERNELS = {
    .name = NAME,
    .width = WIDTH,
    .correlate = correlate,
    .weight_gradient = weight_gradient,
    .max_pool = max_pool,
    .average_pool = average_pool,
    .pool_gradient = pool_gradient,
    .batch_norm = batch_norm,
    .batch_norm_gradient = batch_norm_gradient,
    .relu = relu,
    .relu_gradient = relu_gradient,
    .hardswish = hardswish,
    .cross_entropy = cross_entropy,
    .update = update,
    .transpose = transpose,
    .gather = gather,
};

#ifdef TARGET
#ifdef __clang__
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif
#endif
