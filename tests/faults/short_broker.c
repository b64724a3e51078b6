/* octoflow-broker, whose allocations fail: as OCTO_FAIL_ALLOCATIONS="FIRST COUNT" says, counted
 * from its start. Linked with main.c, whose main() is named broker_main there. */
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>

#include "tests/broker/short_memory.h"

int broker_main(int argc, char **argv);

static atomic_ullong calls;
static unsigned long long first, count;

static bool this_fails(void)
{
    unsigned long long at = atomic_fetch_add(&calls, 1);
    return at >= first && at - first < count;
}

int main(int argc, char **argv)
{
    const char *text = getenv("OCTO_FAIL_ALLOCATIONS");
    if (text != NULL && sscanf(text, "%llu %llu", &first, &count) == 2) {
        if (!memory_watch_sqlite())
            return 9;
        memory_fails = this_fails;
    }
    int code = broker_main(argc, argv);
    memory_fails = (memory_fails_fn *)NULL;
    fprintf(stderr, "allocations %llu\n", (unsigned long long)calls);
    return code;
}
