/* Dispatches in a chain: instead of a barrier of the command buffer between two of them, the later one's workgroups
 * start while the earlier one's still run, load what does not depend on them, and wait here until all have counted
 * themselves. Who includes this has PUSH_CHAIN in its push constants (engine/gpu.h: gpu_chain_create). The count wraps.
 * A wait that never ends would hang the device: after CHAIN_TRIES looks it gives up, and the host is told.
 *
 * In band: of few rows the values themselves tell that they are there, so that a result is on its way to who needs it
 * without the fence, the count and the look at the count. Until it is written a place is UNWRITTEN, which no result is;
 * who reads it looks again until it is not. There are two of each such place, in turn: who writes one of them makes the
 * other UNWRITTEN, since all its readers are through: they are what its own input was made from. A count is waited for
 * all the same: at least what the layer's attention, which is not in band, waited for, or the one's before
 * (engine/forward_matrix.c). Nothing from that attention on can have counted before all that came before it was done,
 * so the count says that, and so that what the layer before cleared is UNWRITTEN. It was reached before the values can
 * be there: no time is lost. */
#ifndef OCTO_CHAIN_GLSL
#define OCTO_CHAIN_GLSL

#extension GL_KHR_memory_scope_semantics : require

#ifdef MATRIX_EMULATED
#define CHAIN_TRIES (1u << 24) /* of a software device, whose threads may be kept waiting */
#else
#define CHAIN_TRIES (1u << 20)
#endif
#define UNWRITTEN 0xffffffffu /* as halves: 0xffff; both NaN */
#define BUFFERS gl_StorageSemanticsBuffer

layout(buffer_reference, std430, buffer_reference_align = 16) volatile coherent buffer ChainState
{
    uint done;       /* workgroups */
    uint broken;     /* a wait gave up: the others need not try */
    uint64_t report; /* the host's copy of that */
};

/* By one invocation: whether to look again. */
bool chain_again(inout uint tries)
{
    ChainState state = ChainState(p.chain);
    if (++tries < CHAIN_TRIES && (tries % 1024 != 0 || state.broken == 0))
        return true;
    state.broken = 1;
    U32s(state.report).v[0] = 1;
    return false;
}

/* By all invocations, before the first read of what an earlier dispatch wrote. */
void chain_wait()
{
    if (p.chain == 0)
        return;
    if (gl_LocalInvocationIndex == 0) {
        ChainState state = ChainState(p.chain);
        uint tries = 0;
        while (int(state.done - p.after) < 0 && chain_again(tries))
            ;
        memoryBarrier(gl_ScopeDevice, BUFFERS, gl_SemanticsAcquire);
    }
    controlBarrier(gl_ScopeWorkgroup, gl_ScopeWorkgroup, BUFFERS | gl_StorageSemanticsShared,
                   gl_SemanticsAcquireRelease);
}

/* By all invocations, after chain_wait() and the last write; what later dispatches read is written and read through
 * coherent references. */
void chain_done()
{
    if (p.chain == 0)
        return;
    controlBarrier(gl_ScopeWorkgroup, gl_ScopeWorkgroup, BUFFERS, gl_SemanticsAcquireRelease);
    if (gl_LocalInvocationIndex == 0) {
        memoryBarrier(gl_ScopeDevice, BUFFERS, gl_SemanticsAcquireRelease);
        atomicAdd(ChainState(p.chain).done, 1);
    }
}

/* Whether one of the values is. */
bool unwritten(vec4 x)
{
    return any(equal(floatBitsToUint(x), uvec4(UNWRITTEN)));
}

bool unwritten_halves(uvec4 x)
{
    uvec4 found = (~x - 0x00010001u) & x & 0x80008000u; /* a half of ~x that is 0 */
    return (found.x | found.y | found.z | found.w) != 0;
}

/* What may be written: no NaN that is UNWRITTEN. */
float in_band(float x)
{
    return isnan(x) ? uintBitsToFloat(0x7fc00000u) : x;
}
#endif
