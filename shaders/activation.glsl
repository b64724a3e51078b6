/* silu(x), or gelu(x) by tanh (push.h, PUSH_SILU_MUL). */
#ifndef OCTO_ACTIVATION_GLSL
#define OCTO_ACTIVATION_GLSL

float activated(float x, bool gelu)
{
    precise float gate;
    if (gelu) {
        precise float inner = 0.7978845608028654 * (x + 0.044715 * x * x * x);
        gate = 0.5 * x * (1.0 + tanh(clamp(inner, -15.0, 15.0)));
    } else {
        gate = x / (1.0 + exp(-x));
    }
    return gate;
}
#endif
