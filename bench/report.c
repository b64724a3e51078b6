/* What a command found, as one JSON object; see report.h. */
#include "bench/report.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "octo_build.h"

json_t *report_create(const struct gpu_device_info *device, const char *command, int argc,
                      char **argv)
{
    json_t *report = json_object();
    char date[32] = "";
    time_t now = time(NULL);
    struct tm utc;
    if (gmtime_r(&now, &utc) != NULL)
        strftime(date, sizeof date, "%Y-%m-%dT%H:%M:%SZ", &utc);
    json_object_set_new(report, "device", json_string(device->name));
    json_object_set_new(report, "driver", json_string(device->driver));
    json_object_set_new(report, "build", json_string(OCTO_BUILD));
    json_object_set_new(report, "date", json_string(date));
    json_t *line = json_sprintf("octoflow-bench %s", command);
    for (int i = 0; i < argc && line != NULL; i++) {
        json_t *longer = json_sprintf("%s %s", json_string_value(line), argv[i]);
        json_decref(line);
        line = longer;
    }
    json_object_set_new(report, "command", line);
    return report;
}

void report_number(json_t *report, const char *name, unsigned batch, bool greedy, double value)
{
    char key[128];
    if (!isfinite(value))
        return;
    if (batch > 0)
        snprintf(key, sizeof key, "%s_%u%s", name, batch, greedy ? "_greedy" : "");
    else
        snprintf(key, sizeof key, "%s%s", name, greedy ? "_greedy" : "");
    json_object_set_new(report, key, json_real(value));
}

void report_print(json_t *report)
{
    char *text = json_dumps(report, JSON_COMPACT | JSON_REAL_PRECISION(7));
    printf("%s\n", text == NULL ? "{}" : text);
    free(text);
    json_decref(report);
}
