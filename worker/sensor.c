/* Which sensor a name means. */
#include "worker/sensor.h"

#include <string.h>

enum err sensor_open(const char *spec, const char *pci, struct sensor **ret, struct err_msg *why)
{
    if (strcmp(spec, "auto") == 0 || strcmp(spec, "nvml") == 0)
        return sensor_nvml_open(pci, ret, why);
    if (strncmp(spec, "fake:", 5) == 0)
        return sensor_fake_open(spec + 5, ret, why);
    if (strcmp(spec, "none") == 0)
        return err_set(why, ERR_NOT_FOUND, "no sensor wanted");
    return err_set(why, ERR_USAGE, "sensor \"%s\": expected auto, none, nvml or fake:FILE", spec);
}

const char *sensor_name(const struct sensor *s)
{
    return s->name;
}

enum err sensor_read(struct sensor *s, struct governor_input *ret, struct err_msg *why)
{
    return s->read(s, ret, why);
}

void sensor_close(struct sensor **s)
{
    if (s == NULL || *s == NULL)
        return;
    (*s)->close(*s);
    *s = NULL;
}
