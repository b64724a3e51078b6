/* The look at the device when an engine starts: it finds nothing on a right one; notices a matmul
 * or an attention that does not do what it should, and then the engine goes on with the plain
 * kernels; notices chains that do not, and then it goes on without. A device that does something
 * wrong is one whose first, second, third submission does nothing. And an engine without room for
 * tiles goes on without. Argument: a model. */
#include <vulkan/vulkan.h>

#include "base/size.h"
#include "engine/engine.h"
#include "engine/gpu_impl.h"
#include "engine/matrix.h"
#include "tests/engine/kernel_bed.h"

static const uint32_t prompt[] = {1, 282, 201, 43, 595, 630};
enum { DRAWN = 8 };
static int submits, waits, skipped; /* which one: from 0 */

/* Taken as done, and not done. */
static int skip_one(void *user, const char *call)
{
    (void)user;
    if (strcmp(call, "vkQueueSubmit") == 0 && submits++ == skipped)
        return VK_INCOMPLETE;
    if (strcmp(call, "vkWaitForFences") == 0 && waits++ == skipped)
        return VK_INCOMPLETE;
    return 0;
}

static void skip(int which)
{
    submits = waits = 0;
    skipped = which;
    gpu_set_fault_fn(skip_one, NULL);
}

/* Right; then each of its two rounds left out; then a wait that was given up. Where device memory
 * is not mapped, what goes there and comes back are submissions, too. */
static void test_chain(struct gpu *g, struct matrix *m)
{
    struct err_msg why = {""};
    CHECK_OK(gpu_chain_create(g, &why), why);
    skip(-1);
    CHECK_OK(matrix_check_chain(m, g, &why), why);
    gpu_set_fault_fn(NULL, NULL);
    CHECK(submits == 2 || submits == 4 || submits == 8);
    const int first = submits == 8 ? 2 : 0, rounds[] = {first, first + submits / 2};
    for (size_t i = 0; i < ARRAY_LEN(rounds); i++) {
        gpu_chain_destroy(g);
        CHECK_OK(gpu_chain_create(g, &why), why);
        skip(rounds[i]);
        CHECK_ERR(matrix_check_chain(m, g, &why), ERR_UNSUPPORTED);
        gpu_set_fault_fn(NULL, NULL);
        CHECK(strstr(why.text, "did not see") != NULL);
    }
    gpu_chain_destroy(g);
    CHECK_OK(gpu_chain_create(g, &why), why);
    memset(g->chain_report.mapped, 1, sizeof(uint32_t));
    CHECK_ERR(matrix_check_chain(m, g, &why), ERR_UNSUPPORTED);
    CHECK(strstr(why.text, "waited in vain") != NULL);
    gpu_chain_destroy(g);
    CHECK(!gpu_chain_broken(g));
}

static int allocations_of_checks;

static int count_allocations(void *user, const char *call)
{
    (void)user;
    allocations_of_checks += strcmp(call, "vkAllocateMemory") == 0;
    return 0;
}

static void test_create(struct gpu *g, bool emulated)
{
    struct matrix *m = NULL;
    struct err_msg why = {""};
    static const char *const says[] = {"do not multiply", "do not attend"};
    allocations_of_checks = 0;
    gpu_set_fault_fn(count_allocations, NULL);
    CHECK_OK(matrix_create(g, 64, 256, emulated, &m, &why), why);
    gpu_set_fault_fn(NULL, NULL);
    if (m == NULL)
        return;
    for (int i = 0; i < 2; i++) {
        skip(i);
        CHECK_ERR(matrix_check(m, g, 64, &why), ERR_UNSUPPORTED);
        gpu_set_fault_fn(NULL, NULL);
        CHECK(submits == i + 1 && waits == i + 1);
        CHECK(strstr(why.text, says[i]) != NULL);
    }
    test_chain(g, m);
    matrix_destroy(&m);
}

static int allocations_until_fault;

static int fail_allocation(void *user, const char *call)
{
    (void)user;
    return strcmp(call, "vkAllocateMemory") == 0 && allocations_until_fault-- == 0
               ? VK_ERROR_OUT_OF_DEVICE_MEMORY
               : 0;
}

static const struct tuning *tuning; /* of engines from here on; NULL: the defaults */

/* fault NULL: none. NULL: out of memory. */
static struct engine *open_engine(const struct model *model, enum engine_family family,
                                  gpu_fault_fn *fault)
{
    struct engine *e = NULL;
    struct err_msg why = {""};
    struct engine_options o = {.device_index = bed_device(),
                               .validate = bed_validates(),
                               .family = family,
                               .tuning = tuning,
                               .max_ctx = 64,
                               .max_seqs = 2};
    gpu_set_fault_fn(fault, NULL);
    enum err bad = engine_create(model, &o, &e, &why);
    gpu_set_fault_fn(NULL, NULL);
    if (bad != ERR_NOMEM || fault != fail_allocation)
        CHECK_OK(bad, why);
    return e;
}

/* Destroys e. */
static struct engine_info run(struct engine *e, uint32_t ret_tokens[DRAWN])
{
    struct err_msg why = {""};
    struct engine_request r = {.id = 1,
                               .prompt = prompt,
                               .prompt_count = ARRAY_LEN(prompt),
                               .max_tokens = DRAWN,
                               .top_p = 1};
    uint32_t drawn = 0;
    if (e == NULL)
        exit(1);
    CHECK_OK(engine_add(e, &r, &why), why);
    while (engine_live(e) > 0) {
        const struct engine_event *events;
        size_t count = 0;
        enum err bad = engine_step(e, &events, &count, NULL, &why);
        CHECK_OK(bad, why);
        if (bad != ERR_OK)
            break;
        for (size_t i = 0; i < count && drawn < DRAWN; i++)
            ret_tokens[drawn++] = events[i].token;
    }
    struct engine_info info = *engine_info(e);
    CHECK(engine_validation_errors(e) == 0);
    engine_destroy(&e);
    return info;
}

/* Chains that are not right; memory that is gone when the tiles want it: for the first of them, or
 * for a later one; or when byte tiles of the same shapes do. */
static void test_without(const struct model *model, const struct model *bytes_model)
{
    uint32_t want[DRAWN] = {0}, got[DRAWN] = {0};
    struct engine_info whole = run(open_engine(model, ENGINE_EMULATED, NULL), want);
    CHECK(whole.matrix && whole.chains && whole.tiles_bytes > 0);
    /* behind matrix_check()'s; where device memory is not mapped, behind three uploads, too */
    skip(whole.device.software ? 2 : 5);
    struct engine_info info = run(open_engine(model, ENGINE_EMULATED, skip_one), got);
    CHECK(info.matrix && !info.chains);
    CHECK_STR(info.numeric_class, whole.numeric_class);
    CHECK(memcmp(want, got, sizeof want) == 0);
    int before = allocations_of_checks;
    for (int found = 0; found < 2; before++) {
        allocations_until_fault = before;
        struct engine *e = open_engine(model, ENGINE_EMULATED, fail_allocation);
        if (e == NULL && CHECK(before < 100 && found == 0))
            continue; /* not the tiles' */
        info = run(e, got);
        CHECK(info.matrix && info.tiles_bytes == 0);
        CHECK_STR(info.numeric_class, whole.numeric_class);
        CHECK(memcmp(want, got, sizeof want) == 0);
        found++;
    }
    /* Behind the second of f16, so many others and the output's. */
    struct tuning bytes = tuning_defaults();
    bytes.byte_tiles_mib = 0;
    tuning = &bytes;
    allocations_until_fault = before + (int)bytes_model->n_layer - 1;
    info = run(open_engine(bytes_model, ENGINE_EMULATED, fail_allocation), got);
    tuning = NULL;
    CHECK(allocations_until_fault < 0);
    CHECK_INT(info.tiles_bytes, whole.tiles_bytes);
    CHECK_STR(info.numeric_class, whole.numeric_class);
}

int main(int argc, char **argv)
{
    struct err_msg why = {""};
    struct model *model = NULL, *bytes_model = NULL;
    struct gpu *g = NULL;
    struct gpu_options o = {.device_index = bed_device(), .validate = bed_validates()};
    if (argc != 3)
        return 1;
    CHECK_OK(gpu_create(&o, &g, &why), why);
    if (g == NULL)
        return 1;
    test_create(g, true);
    if (gpu_info(g)->matrix_f16)
        test_create(g, false);
    gpu_destroy(&g);

    CHECK_OK(model_open(argv[1], &model, &why), why);
    CHECK_OK(model_open(argv[2], &bytes_model, &why), why);
    if (model == NULL || bytes_model == NULL)
        return 1;
    uint32_t plain_tokens[DRAWN] = {0}, other_tokens[DRAWN] = {0};
    struct engine_info plain = run(open_engine(model, ENGINE_PLAIN, NULL), plain_tokens);
    skip(0);
    struct engine_info other = run(open_engine(model, ENGINE_EMULATED, skip_one), other_tokens);
    CHECK(!other.matrix && !other.chains && other.tiles_bytes == 0);
    CHECK_STR(other.numeric_class, plain.numeric_class);
    CHECK(memcmp(plain_tokens, other_tokens, sizeof plain_tokens) == 0);
    test_without(model, bytes_model);
    model_close(&model);
    model_close(&bytes_model);
    return check_report();
}
