// Data: the batches, and what is counted over an epoch.

// y (B, C, Q) = images[indices] * scale + shift, of uint8 images (M, C, Q). Below 0 counts from the end, as in NumPy;
// an index that is not there gives NaN.
extern "C" __global__ void gather_normalised(
    const unsigned char* images, const long long* indices, const float* scale, const float* shift, stored* y,
    long long M, int B, int C, long long Q) {
    FOR_EACH(i, (long long)B * C * Q) {
        const int c = (int)(i / Q % C);
        long long index = indices[i / (Q * C)];
        if (index < 0) index += M;
        y[i] = index >= 0 && index < M ? images[(index * C + c) * Q + i % Q] * scale[c] + shift[c] : not_a_number();
    }
}

// The next batch of an epoch: the images, normalised, y (B, C, Q), and the labels, taken (B,), at order[*seen],
// order[*seen + 1] ... Beyond the end of the order (length,), and where it names no image, NaN and -1. The count of images
// seen is that of update_metrics, so that the batch after is the next.
extern "C" __global__ void gather_next(
    const unsigned char* images, const long long* labels, const long long* order, const double* seen,
    const float* scale, const float* shift, stored* y, long long* taken, long long M, long long length, int B, int C,
    long long Q) {
    const long long first = (long long)*seen;
    FOR_EACH(i, (long long)B * C * Q) {
        const int c = (int)(i / Q % C);
        const long long b = i / (Q * C), index = first + b < length ? order[first + b] : -1;
        const bool there = index >= 0 && index < M;
        if (i % (Q * C) == 0) taken[b] = there ? labels[index] : -1;
        y[i] = there ? images[(index * C + c) * Q + i % Q] * scale[c] + shift[c] : not_a_number();
    }
}

// Adds a batch of mean loss *loss and logits (R, K) to sums (4,): sum of losses, correct predictions, images, the last loss.
// The answer is the first of the highest logits, and NaN the highest of all, as in argmax. One block of REDUCE threads.
extern "C" __global__ void __launch_bounds__(256) update_metrics(
    const float* loss, const stored* logits, const long long* labels, double* sums, int R, int K) {
    __shared__ int right[REDUCE];
    const int me = threadIdx.x;
    int count = 0;
    for (int row = me; row < R; row += REDUCE) {
        const stored* z = logits + (long long)row * K;
        int best = 0;
        float highest = z[0];
        for (int k = 1; k < K; k++) {
            const float score = z[k];
            if (score > highest || (is_nan(score) && !is_nan(highest))) highest = score, best = k;
        }
        count += best == labels[row];
    }
    right[me] = count;
    for (int half = REDUCE / 2; half > 0; half /= 2) {
        __syncthreads();
        if (me < half) right[me] += right[me + half];
    }
    if (me == 0) {
        sums[0] += (double)*loss * R;
        sums[1] += right[0];
        sums[2] += R;
        sums[3] = *loss;
    }
}
