/* Tunables as --set takes them. */
#include <string.h>

#include "engine/tuning.h"
#include "tests/check.h"

static void check_refused(const char *list, const char *says)
{
    struct tuning t = tuning_defaults(), before = t;
    struct err_msg why = {""};
    CHECK_ERR(tuning_parse(list, &t, &why), ERR_USAGE);
    if (!CHECK(strstr(why.text, says) != NULL))
        fprintf(stderr, "    \"%s\" says: %s\n", list, why.text);
    CHECK(memcmp(&t, &before, sizeof t) == 0);
}

int main(void)
{
    struct err_msg why = {""};
    struct tuning t = tuning_defaults(), usual = t;
    CHECK_INT(t.chain_rows, 96);
    CHECK_INT(t.norm_rows, 16);
    CHECK_INT(t.stream_rows, 64);
    CHECK_INT(t.direct_input, 1);
    CHECK_INT(t.sample_parts, 0);
    CHECK_OK(tuning_parse("norm_rows=8", &t, &why), why);
    CHECK_INT(t.norm_rows, 8);
    CHECK_INT(t.chain_rows, usual.chain_rows);
    CHECK_OK(tuning_parse("direct_input=0,chain_rows=0,norm_rows=16", &t, &why), why);
    CHECK_INT(t.direct_input, 0);
    CHECK_INT(t.chain_rows, 0);
    CHECK_INT(t.norm_rows, 16);
    CHECK_INT(t.stream_rows, usual.stream_rows);
    check_refused("", "expected one of chain_rows in_band_rows");
    check_refused("norm_rows=8,", "expected one of chain_rows in_band_rows");
    check_refused("norm=8", "--set norm=8: no tunable of that name");
    check_refused("norm_rows_=8", "no tunable of that name");
    check_refused("chain_rows=5,norm_rows",
                  "--set norm_rows: expected norm_rows=N with N from 0 to 16");
    check_refused("norm_rows=", "expected norm_rows=N");
    check_refused("norm_rows=-1", "expected norm_rows=N");
    check_refused("norm_rows= 1", "expected norm_rows=N");
    check_refused("norm_rows=1x", "expected norm_rows=N");
    check_refused("norm_rows=17", "expected norm_rows=N");
    check_refused("norm_rows=99999999999999999999", "expected norm_rows=N");
    return check_report();
}
