// Losses.

__device__ __forceinline__ float warp_max(float value) {
    for (int step = 16; step > 0; step /= 2) value = fmaxf(value, __shfl_xor_sync(0xffffffffu, value, step));
    return value;
}

__device__ __forceinline__ float warp_sum(float value) {
    for (int step = 16; step > 0; step /= 2) value += __shfl_xor_sync(0xffffffffu, value, step);
    return value;
}

// losses (R,) = -log softmax(logits)[target], gradient (R, K) = softmax - one_hot: a warp for each row, 4 in a block.
// A label below 0 or of K and above gives NaN: the device cannot raise.
extern "C" __global__ void cross_entropy(
    const float* logits, const long long* target, float* losses, float* gradient, int R, int K, int wants_gradient) {
    const int row = blockIdx.x * 4 + threadIdx.x / 32, lane = threadIdx.x % 32;
    if (row >= R) return;  // with its whole warp
    const float* z = logits + (long long)row * K;
    float most = -infinity();
    for (int k = lane; k < K; k += 32) most = fmaxf(most, z[k]);
    most = warp_max(most);
    float total = 0;
    for (int k = lane; k < K; k += 32) total += expf(z[k] - most);
    total = warp_sum(total);
    const long long label = target[row];
    const bool valid = label >= 0 && label < K;
    if (lane == 0) losses[row] = valid ? logf(total) - (z[label] - most) : not_a_number();
    if (wants_gradient)
        for (int k = lane; k < K; k += 32)
            gradient[(long long)row * K + k] = valid ? expf(z[k] - most) / total - (k == label) : not_a_number();
}

// total = sum of the values / divisor. One block of REDUCE threads.
extern "C" __global__ void __launch_bounds__(256) mean_loss(
    const float* losses, float* total, long long count, float divisor) {
    __shared__ float sums[REDUCE];
    const int me = threadIdx.x;
    float sum = 0;
    for (long long i = me; i < count; i += REDUCE) sum += losses[i];
    sums[me] = sum;
    for (int half = REDUCE / 2; half > 0; half /= 2) {
        __syncthreads();
        if (me < half) sums[me] += sums[me + half];
    }
    if (me == 0) *total = sums[0] / divisor;
}

// y = x * (*factor / divisor).
extern "C" __global__ void scale(const float* x, const float* factor, float* y, float divisor, long long count) {
    const float by = *factor / divisor;
    FOR_EACH(i, count) y[i] = x[i] * by;
}
