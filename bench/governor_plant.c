/* See governor_plant.h. */
#include "bench/governor_plant.h"

#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/size.h"

static const double firmware_step = 0.02, firmware_least = 0.2, firmware_period_s = 1;

/* Remembers the first value that is missing. */
struct reader {
    const char *path;
    enum err e;
    struct err_msg *why;
};

static json_t *child(struct reader *r, json_t *parent, const char *key)
{
    json_t *v = json_object_get(parent, key);
    if (v == NULL && r->e == ERR_OK)
        r->e = err_set(r->why, ERR_FORMAT, "%s: \"%s\" is missing", r->path, key);
    return v;
}

static double number(struct reader *r, json_t *parent, const char *key)
{
    json_t *v = child(r, parent, key);
    if (!json_is_number(v) && r->e == ERR_OK)
        r->e = err_set(r->why, ERR_FORMAT, "%s: \"%s\": expected a number", r->path, key);
    return json_number_value(v);
}

static void read_plant(struct reader *r, const char *name, json_t *j, struct plant *p)
{
    snprintf(p->name, sizeof p->name, "%s", name);
    const struct {
        const char *key;
        double *value;
    } values[] = {
        {"p_idle", &p->p_idle},           {"p_full", &p->p_full}, {"r_die_sink", &p->r_die_sink},
        {"r_sink_room", &p->r_sink_room}, {"c_die", &p->c_die},   {"c_sink", &p->c_sink},
        {"throttle_c", &p->throttle_c},   {"v_min", &p->v_min},   {"target_c", &p->target_c},
    };
    for (size_t i = 0; i < ARRAY_LEN(values); i++)
        *values[i].value = number(r, j, values[i].key);
    const char *firmware = json_string_value(child(r, j, "firmware"));
    p->hysteresis = firmware != NULL && strcmp(firmware, "hysteresis") == 0;
    if (!p->hysteresis && (firmware == NULL || strcmp(firmware, "dvfs") != 0) && r->e == ERR_OK)
        r->e = err_set(r->why, ERR_FORMAT, "%s: %s: \"firmware\": expected dvfs or hysteresis",
                       r->path, name);
    if (p->hysteresis) {
        p->low_clock = number(r, j, "low_clock");
        p->hysteresis_c = number(r, j, "hysteresis_c");
    }
}

static void read_works(struct reader *r, json_t *works, struct plant_file *f)
{
    const char *name;
    json_t *j;
    json_object_foreach(works, name, j)
    {
        if (f->works_count == PLANT_MAX)
            return;
        struct plant_work *w = &f->works[f->works_count++];
        snprintf(w->name, sizeof w->name, "%s", name);
        w->activity = number(r, j, "activity");
        w->exponent = number(r, j, "exponent");
    }
}

static void read_night(struct reader *r, json_t *root, struct plant_file *f)
{
    json_t *night = child(r, root, "night"), *sensor = child(r, root, "sensor");
    json_t *room = child(r, night, "room_c");
    f->hours = number(r, night, "hours");
    f->step_s = number(r, night, "step_s");
    for (size_t i = 0; i < json_array_size(room) && f->room_count < PLANT_MAX_ROOM; i++) {
        json_t *point = json_array_get(room, i);
        f->room[f->room_count++] =
            (struct plant_room){.hour = json_number_value(json_array_get(point, 0)),
                                .room_c = json_number_value(json_array_get(point, 1))};
    }
    f->noise_c = number(r, sensor, "noise_c");
    f->resolution_c = number(r, sensor, "resolution_c");
    f->period_s = number(r, sensor, "period_s");
    f->delay_s = number(r, sensor, "delay_s");
    f->dropout_probability = number(r, sensor, "dropout_probability");
}

enum err plant_load(const char *path, struct plant_file *ret, struct err_msg *why)
{
    json_error_t at;
    json_t *root = json_load_file(path, JSON_REJECT_DUPLICATES, &at), *j;
    if (root == NULL)
        return err_set(why, ERR_FORMAT, "%s:%d: %s", path, at.line, at.text);
    struct plant_file f = {0};
    struct reader r = {.path = path, .why = why};
    const char *name;
    json_object_foreach(child(&r, root, "plants"), name, j)
    {
        if (f.plants_count < PLANT_MAX)
            read_plant(&r, name, j, &f.plants[f.plants_count++]);
    }
    read_works(&r, child(&r, root, "work"), &f);
    read_night(&r, root, &f);
    json_decref(root);
    if (r.e == ERR_OK && (f.plants_count == 0 || f.works_count == 0 || f.room_count == 0 ||
                          !(f.step_s > 0) || !(f.hours > 0) || !(f.period_s >= f.step_s)))
        r.e = err_set(why, ERR_FORMAT, "%s: expected plants, work, a room and times above 0", path);
    if (r.e == ERR_OK)
        *ret = f;
    return r.e;
}

double plant_room_c(const struct plant_file *f, double hour)
{
    size_t i = 1;
    while (i < f->room_count && f->room[i].hour < hour)
        i++;
    if (i >= f->room_count)
        return f->room[f->room_count - 1].room_c;
    const struct plant_room *a = &f->room[i - 1], *b = &f->room[i];
    double part = (hour - a->hour) / (b->hour - a->hour);
    return a->room_c + (b->room_c - a->room_c) * (part < 0 ? 0 : part);
}

void plant_start(const struct plant *p, double room_c, struct plant_state *ret)
{
    *ret = (struct plant_state){.clock = 1, .power_w = p->p_idle};
    ret->sink_c = room_c + p->p_idle * p->r_sink_room;
    ret->die_c = ret->sink_c + p->p_idle * p->r_die_sink;
}

static void firmware(const struct plant *p, struct plant_state *s)
{
    if (!p->hysteresis) {
        double f = s->clock + (s->die_c > p->throttle_c ? -firmware_step : firmware_step);
        s->clock = f < firmware_least ? firmware_least : f > 1 ? 1 : f;
    } else if (s->die_c >= p->throttle_c) {
        s->clock = p->low_clock;
    } else if (s->die_c <= p->throttle_c - p->hysteresis_c) {
        s->clock = 1;
    }
}

void plant_step(const struct plant *p, const struct plant_work *work, double duty, double room_c,
                double step_s, struct plant_state *s)
{
    double v = p->v_min + (1 - p->v_min) * s->clock;
    s->power_w = p->p_idle + duty * work->activity * (p->p_full - p->p_idle) * s->clock * v * v;
    s->speed = duty * (s->clock == 1 ? 1 : pow(s->clock, work->exponent));
    double to_sink_w = (s->die_c - s->sink_c) / p->r_die_sink;
    double to_room_w = (s->sink_c - room_c) / p->r_sink_room;
    s->die_c += (s->power_w - to_sink_w) / p->c_die * step_s;
    s->sink_c += (to_sink_w - to_room_w) / p->c_sink * step_s;
    s->firmware_s += step_s;
    if (p->hysteresis || s->firmware_s >= firmware_period_s - step_s / 2) {
        s->firmware_s = 0;
        firmware(p, s);
    }
}
