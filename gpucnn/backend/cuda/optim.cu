// Updates of optimisers.
//
// One launch over a flat buffer. What may differ from step to step is an argument, or in a captured step read from the
// device, where `captured` is set. Nothing changes where `conditional` is set and *condition is false.

extern "C" __global__ void set_numbers(double* target, double first, double second, int count) {
    if (blockIdx.x != 0 || threadIdx.x != 0) return;
    target[0] = first;
    if (count > 1) target[1] = second;
}

extern "C" __global__ void sgd(
    float* p, const float* g, float* velocity, const double* lr_at, const double* momentum_at, const bool* condition,
    double lr, double momentum, int captured, int has_velocity, int conditional, int nesterov, float weight_decay,
    long long count) {
    if (conditional && !*condition) return;
    const float rate = (float)(captured ? *lr_at : lr), kept = (float)(captured ? *momentum_at : momentum);
    FOR_EACH(i, count) {
        float gradient = g[i] + weight_decay * p[i];
        if (has_velocity) {
            const float moved = kept * velocity[i] + gradient;
            velocity[i] = moved;
            gradient = nesterov ? gradient + kept * moved : moved;
        }
        p[i] -= rate * gradient;
    }
}

// Counts an update in counts (S,), and writes what it needs, numbers (5,): the learning rate; that over 1 - beta1^t; the root
// of 1 - beta2^t; beta1; 1 - beta1.
extern "C" __global__ void begin_adam(
    double* counts, const double* lr_at, const double* beta1_at, const bool* condition, float* numbers, double lr,
    double beta1, double beta2, int captured, int conditional, int S) {
    if (blockIdx.x != 0 || threadIdx.x != 0 || (conditional && !*condition)) return;
    const double t = counts[0] + 1;
    for (int s = 0; s < S; s++) counts[s] = t;
    if (captured) lr = *lr_at, beta1 = *beta1_at;
    numbers[0] = (float)lr;
    numbers[1] = (float)(lr / (1 - pow(beta1, t)));
    numbers[2] = (float)sqrt(1 - pow(beta2, t));
    numbers[3] = (float)beta1;
    numbers[4] = (float)(1 - beta1);
}

extern "C" __global__ void adam(
    float* p, const float* g, float* m, float* v, const float* numbers, const bool* condition, int conditional,
    float beta2, float rest2, float eps, float weight_decay, int decoupled, long long count) {
    if (conditional && !*condition) return;
    const float beta1 = numbers[3], rest1 = numbers[4];
    FOR_EACH(i, count) {
        const float start = decoupled ? p[i] * (1 - numbers[0] * weight_decay) : p[i];
        const float gradient = decoupled ? g[i] : g[i] + weight_decay * p[i];
        m[i] = beta1 * m[i] + rest1 * gradient;
        v[i] = beta2 * v[i] + rest2 * (gradient * gradient);
        p[i] = start - numbers[1] * m[i] / (sqrtf(v[i]) / numbers[2] + eps);
    }
}

// Copies up to twelve arrays, the gradients of parameters into their flat buffer say; those of count 0 are absent.
// Grid (blocks, 12).
#define PIECE(i) const stored* from##i, stored* to##i, long long count##i
extern "C" __global__ void copy_pieces(
    PIECE(0), PIECE(1), PIECE(2), PIECE(3), PIECE(4), PIECE(5), PIECE(6), PIECE(7), PIECE(8), PIECE(9), PIECE(10),
    PIECE(11)) {
    const stored* const from[12] = {from0, from1, from2, from3, from4, from5, from6, from7, from8, from9, from10, from11};
    stored* const to[12] = {to0, to1, to2, to3, to4, to5, to6, to7, to8, to9, to10, to11};
    const long long counts[12] = {count0, count1, count2, count3, count4, count5, count6, count7, count8, count9, count10,
                                  count11};
    const int piece = blockIdx.y;
    FOR_EACH(i, counts[piece]) to[piece][i] = from[piece][i];
}
