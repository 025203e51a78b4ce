// Normalisation: reductions over a channel.
//
// Images are (N, C, Q) with Q pixels; a channel's N*Q values are cut among `splits` blocks, grid (splits, C), whose
// results the second kernel of each pair merges in order. Blocks have REDUCE threads.

struct Moments {  // of some values: their count, their mean and the sum of squared distances from it
    float count, mean, squares;
};

// Chan, Golub & LeVeque 1979: exact where the difference of two large sums of squares would not be.
__device__ __forceinline__ Moments merged(Moments a, Moments b) {
    const float count = a.count + b.count;
    if (count == 0) return a;
    const float distance = b.mean - a.mean, share = b.count / count;
    Moments m = {count, a.mean + distance * share, a.squares + b.squares + distance * distance * a.count * share};
    return m;
}

// partial (splits, C, 3): count, mean and squares of each channel in each split.
extern "C" __global__ void __launch_bounds__(256) channel_moments(
    const stored* x, float* partial, int N, int C, long long Q, long long each) {
    __shared__ float counts[REDUCE];
    __shared__ float means[REDUCE];
    __shared__ float squares[REDUCE];
    const int c = blockIdx.y, me = threadIdx.x;
    const long long first = blockIdx.x * each, last = min(first + each, N * Q);
    Moments mine = {0, 0, 0};
    for (long long i = first + me; i < last; i += REDUCE) {
        const Moments one = {1, x[(i / Q * C + c) * Q + i % Q], 0};
        mine = merged(mine, one);
    }
    counts[me] = mine.count, means[me] = mine.mean, squares[me] = mine.squares;
    for (int half = REDUCE / 2; half > 0; half /= 2) {
        __syncthreads();
        if (me < half) {
            const Moments a = {counts[me], means[me], squares[me]};
            const Moments b = {counts[me + half], means[me + half], squares[me + half]};
            const Moments m = merged(a, b);
            counts[me] = m.count, means[me] = m.mean, squares[me] = m.squares;
        }
    }
    if (me == 0) {
        float* out = partial + ((long long)blockIdx.x * C + c) * 3;
        out[0] = counts[0], out[1] = means[0], out[2] = squares[0];
    }
}

// mean, var and factor = 1 / sqrt(var + eps), each (C,).
extern "C" __global__ void channel_moments_merge(
    const float* partial, float* mean, float* var, float* factor, int splits, int C, float eps) {
    FOR_EACH(c, C) {
        Moments all = {0, 0, 0};
        for (int split = 0; split < splits; split++) {
            const float* one = partial + ((long long)split * C + c) * 3;
            const Moments m = {one[0], one[1], one[2]};
            all = merged(all, m);
        }
        mean[c] = all.mean;
        var[c] = all.squares / all.count;
        factor[c] = 1 / sqrtf(all.squares / all.count + eps);
    }
}

// running = (1 - momentum) running + momentum now, with the unbiased variance: `unbiased` is n / (n - 1).
extern "C" __global__ void update_running(
    float* running_mean, float* running_var, const float* mean, const float* var, float unbiased, float momentum, int C) {
    FOR_EACH(c, C) {
        running_mean[c] = (1 - momentum) * running_mean[c] + momentum * mean[c];
        running_var[c] = (1 - momentum) * running_var[c] + momentum * (var[c] * unbiased);
    }
}

// y = (x - mean) factor weight + bias + residual, or of that the ReLU.
extern "C" __global__ void channel_normalise(
    const stored* x, const float* mean, const float* factor, const stored* weight, const stored* bias,
    const stored* residual, stored* y, int has_weight, int has_bias, int has_residual, int relu, int N, int C,
    long long Q) {
    FOR_EACH(i, (long long)N * C * Q) {
        const int c = (int)(i / Q % C);
        float value = (x[i] - mean[c]) * factor[c];
        if (has_weight) value *= weight[c];
        if (has_bias) value += bias[c];
        if (has_residual) value += residual[i];
        y[i] = relu && value < 0 ? 0 : value;  // NaN stays NaN
    }
}

// dL/d(what the ReLU was given): dy where y is positive; without ReLU dy itself.
__device__ __forceinline__ float before_relu(const stored* dy, const stored* y, int relu, long long i) {
    return relu && !(y[i] > 0) ? 0 : (float)dy[i];
}

// partial (splits, C, 2): the sums of the gradient before the ReLU, and of that times the normalised x.
extern "C" __global__ void __launch_bounds__(256) channel_sums(
    const stored* dy, const stored* y, const stored* x, const float* mean, const float* factor, float* partial, int relu,
    int N, int C, long long Q, long long each) {
    __shared__ float sums[REDUCE];
    __shared__ float products[REDUCE];
    const int c = blockIdx.y, me = threadIdx.x;
    const long long first = blockIdx.x * each, last = min(first + each, N * Q);
    float sum = 0, product = 0;
    for (long long i = first + me; i < last; i += REDUCE) {
        const long long at = (i / Q * C + c) * Q + i % Q;
        const float gradient = before_relu(dy, y, relu, at);
        sum += gradient;
        product += gradient * ((x[at] - mean[c]) * factor[c]);
    }
    sums[me] = sum, products[me] = product;
    for (int half = REDUCE / 2; half > 0; half /= 2) {
        __syncthreads();
        if (me < half) sums[me] += sums[me + half], products[me] += products[me + half];
    }
    if (me == 0) {
        float* out = partial + ((long long)blockIdx.x * C + c) * 2;
        out[0] = sums[0], out[1] = products[0];
    }
}

// sums (2, C): the sums over the splits, which are dL/dbias and dL/dweight, and in `gradients` (2, C) as these are stored.
extern "C" __global__ void channel_sums_merge(const float* partial, float* sums, stored* gradients, int splits, int C) {
    FOR_EACH(c, C) {
        float sum = 0, product = 0;
        for (int split = 0; split < splits; split++) {
            sum += partial[((long long)split * C + c) * 2];
            product += partial[((long long)split * C + c) * 2 + 1];
        }
        sums[c] = sum, gradients[c] = sum;
        sums[C + c] = product, gradients[C + c] = product;
    }
}

// dx = factor weight (g - mean(g) - normal mean(g normal)), g the gradient before the ReLU, with its sums (2, C) and share = 1
// over the count of values; and g itself where it is wanted.
extern "C" __global__ void channel_normalise_gradient(
    const stored* dy, const stored* y, const stored* x, const float* mean, const float* factor, const stored* weight,
    const float* sums, stored* dx, stored* g, float share, int has_weight, int relu, int wants_g, int N, int C,
    long long Q) {
    FOR_EACH(i, (long long)N * C * Q) {
        const int c = (int)(i / Q % C);
        const float gradient = before_relu(dy, y, relu, i), normal = (x[i] - mean[c]) * factor[c];
        const float scale = has_weight ? factor[c] * weight[c] : factor[c];
        dx[i] = scale * (gradient - share * sums[c] - normal * (share * sums[C + c]));
        if (wants_g) g[i] = gradient;
    }
}
