/* Dispatches in a chain: instead of a barrier of the command buffer between two of them, the later one's workgroups
 * start while the earlier one's still run, load what does not depend on them, and wait here until all have counted
 * themselves. Who includes this has PUSH_CHAIN in its push constants (engine/gpu.h: gpu_chain_create). The count wraps.
 * A wait that never ends would hang the device: after CHAIN_TRIES looks it gives up, and the host is told. */
#ifndef OCTO_CHAIN_GLSL
#define OCTO_CHAIN_GLSL

#extension GL_KHR_memory_scope_semantics : require

#define CHAIN_TRIES (1u << 20)
#define BUFFERS gl_StorageSemanticsBuffer

layout(buffer_reference, std430, buffer_reference_align = 16) volatile coherent buffer ChainState
{
    uint done;       /* workgroups */
    uint broken;     /* a wait gave up: the others need not try */
    uint64_t report; /* the host's copy of that */
};

/* By all invocations, before the first read of what an earlier dispatch wrote. */
void chain_wait()
{
    if (p.chain == 0)
        return;
    if (gl_LocalInvocationIndex == 0) {
        ChainState state = ChainState(p.chain);
        uint tries = 0;
        while (int(state.done - p.after) < 0) {
            if (++tries < CHAIN_TRIES && (tries % 1024 != 0 || state.broken == 0))
                continue;
            state.broken = 1;
            U32s(state.report).v[0] = 1;
            break;
        }
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
#endif
