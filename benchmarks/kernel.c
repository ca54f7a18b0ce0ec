/* K gradient steps on a graph of two nodes, fused by hand: what the arithmetic costs without a runtime around it.

   mu(u) = A u + D tanh(W u + b) + c, row-major matrices; B = A + D W. Vectors are float32. */
#include <math.h>

typedef struct {
    int inputs, hidden, outputs;
    const float *W, *b, *A, *D, *c, *Wt, *Dt, *Bt;
} Net;

static void times(int rows, int columns, const float *restrict m, const float *restrict v, float *restrict out) {
    for (int i = 0; i < rows; i++) {
        float sum = 0.0f;
        for (int j = 0; j < columns; j++) sum += m[i * columns + j] * v[j];
        out[i] = sum;
    }
}

static void mean(const Net *n, const float *u, float *restrict hidden, float *restrict out, float *restrict scratch) {
    times(n->hidden, n->inputs, n->W, u, hidden);
    for (int i = 0; i < n->hidden; i++) hidden[i] = tanhf(hidden[i] + n->b[i]);
    times(n->outputs, n->inputs, n->A, u, out);
    times(n->outputs, n->hidden, n->D, hidden, scratch);
    for (int i = 0; i < n->outputs; i++) out[i] += scratch[i] + n->c[i];
}

/* (d mu / d u)' v = B' v - W' ((D' v) h h) */
static void pull(const Net *n, const float *v, const float *hidden, float *restrict out, float *restrict scratch) {
    times(n->hidden, n->outputs, n->Dt, v, scratch);
    for (int i = 0; i < n->hidden; i++) scratch[i] *= hidden[i] * hidden[i];
    times(n->inputs, n->outputs, n->Bt, v, out);
    float *bent = scratch + n->hidden;
    times(n->inputs, n->hidden, n->Wt, scratch, bent);
    for (int i = 0; i < n->inputs; i++) out[i] -= bent[i];
}

/* z = (top, bottom) is refined in place; `bottom` predicts x from the bottom node, `edge` the bottom node from the top. */
void refine(int steps, const float *eta, const Net *edge, const Net *bottom, const float *precision_z,
            const float *drive, const float *precision_x, const float *x, float *z) {
    float hidden[2][512], error[512], surprise[512], message[512], scratch[1024];
    const int t = edge->inputs, b = edge->outputs, d = bottom->outputs;
    for (int k = 0; k < steps; k++) {
        mean(edge, z, hidden[0], error + t, scratch);
        for (int i = 0; i < t; i++) error[i] = precision_z[i] * (z[i] - drive[i]);
        for (int i = t; i < t + b; i++) error[i] = precision_z[i] * (z[i] - error[i] - drive[i]);
        mean(bottom, z + t, hidden[1], surprise, scratch);
        for (int i = 0; i < d; i++) surprise[i] = precision_x[i] * (x[i] - surprise[i]);
        pull(edge, error + t, hidden[0], message, scratch);
        pull(bottom, surprise, hidden[1], message + t, scratch);
        for (int i = 0; i < t + b; i++) z[i] -= eta[k] * (error[i] - message[i]);
    }
}
