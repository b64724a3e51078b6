/* Value d of a head x, rotated by its position's angles (push.h, PUSH_ROPE). */
#ifndef OCTO_ROTATION_GLSL
#define OCTO_ROTATION_GLSL

float rotated(F32s x, F32x2s angles, uint d, uint rope_dims, bool adjacent)
{
    uint pairs = rope_dims / 2;
    if (d >= rope_dims)
        return x.v[d];
    bool first = adjacent ? d % 2 == 0 : d < pairs; /* of its pair */
    uint away = adjacent ? 1 : pairs;
    vec2 a = angles.v[adjacent ? d / 2 : first ? d : d - pairs];
    float own = x.v[d], other = x.v[first ? d + away : d - away];
    precise float turned = other * (first ? -a.y : a.y);
    precise float sum = fma(own, a.x, turned);
    return sum;
}
#endif
