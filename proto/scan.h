/* The check that comes before msgpack-c sees a frame. Private to proto/. */
#ifndef OCTO_PROTO_SCAN_H
#define OCTO_PROTO_SCAN_H

#include <stddef.h>

#include "base/err.h"

/* ERR_OK: the bytes are exactly one msgpack map with text keys, no key twice, at most
 * PROTO_MAX_DEPTH deep, at most PROTO_MAX_FIELDS entries a map and max_objects values in all,
 * every length inside the bytes, no ext types. ERR_PROTO otherwise; the message names the byte and
 * the key it stands under. Allocates nothing. */
enum err proto_scan(const void *bytes, size_t len, size_t max_objects,
                    struct err_msg *why) MUST_CHECK;

#endif
