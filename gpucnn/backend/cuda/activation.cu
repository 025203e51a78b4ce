// Activation, and random numbers for dropout.

extern "C" __global__ void relu(const stored* x, stored* y, long long count) {
    FOR_EACH(i, count) {
        const float value = x[i];
        y[i] = value < 0 ? 0 : value;  // NaN stays NaN
    }
}

extern "C" __global__ void relu_gradient(const stored* dy, const stored* y, stored* dx, long long count) {
    FOR_EACH(i, count) dx[i] = y[i] > 0 ? (float)dy[i] : 0;
}

// --- Random numbers -------------------------------------------------------------------------------------------------

// Philox 4x32-10 (Salmon, Moraes, Dror & Shaw 2011): four random words of a counter and a key.
__device__ __forceinline__ uint4 philox(uint4 c, uint2 key) {
    for (int round = 0; round < 10; round++) {
        const unsigned high0 = __umulhi(0xD2511F53u, c.x), low0 = 0xD2511F53u * c.x;
        const unsigned high1 = __umulhi(0xCD9E8D57u, c.z), low1 = 0xCD9E8D57u * c.z;
        c = make_uint4(high1 ^ c.y ^ key.x, low1, high0 ^ c.w ^ key.y, low0);
        key = make_uint2(key.x + 0x9E3779B9u, key.y + 0xBB67AE85u);
    }
    return c;
}

// The state of a draw, (seed, number of the draw), on the device: a captured step reads what is there when it is replayed.
extern "C" __global__ void set_draw(unsigned long long* state, unsigned long long seed, unsigned long long draw) {
    if (blockIdx.x == 0 && threadIdx.x == 0) state[0] = seed, state[1] = draw;
}

extern "C" __global__ void next_draw(unsigned long long* state) {
    if (blockIdx.x == 0 && threadIdx.x == 0) state[1] += 1;
}

// mask = 0 with probability p, else scale. Four elements share one counter: (element / 4, draw).
extern "C" __global__ void dropout_mask(
    const unsigned long long* state, stored* mask, float p, float scale, long long count) {
    const uint2 key = make_uint2((unsigned)state[0], (unsigned)(state[0] >> 32));
    const unsigned long long draw = state[1];
    FOR_EACH(i, (count + 3) / 4) {
        const uint4 r = philox(make_uint4((unsigned)i, (unsigned)(i >> 32), (unsigned)draw, (unsigned)(draw >> 32)), key);
        const unsigned words[4] = {r.x, r.y, r.z, r.w};
        for (int j = 0; j < 4 && 4 * i + j < count; j++)
            mask[4 * i + j] = (words[j] >> 8) * 5.9604644775390625e-8f >= p ? scale : 0;  // 24 bits times 2^-24
    }
}
