/* cap * tanh(x / cap); cap 0: x. Monotone, so NaN and order stay what they are. A driver's sinh / cosh may overflow. */
#ifndef OCTO_SOFTCAP_GLSL
#define OCTO_SOFTCAP_GLSL

float soft_capped(float value, float cap)
{
    if (cap == 0.0)
        return value;
    precise float x = value / cap;
    precise float y = cap * (abs(x) > 15.0 ? sign(x) : tanh(x));
    return y;
}
#endif
