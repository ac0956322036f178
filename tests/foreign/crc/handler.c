// Answers with the CRC-32 (as in zlib) of the payload: eight hex digits, as JSON.

#include <stdio.h>
#include <string.h>

#include "crc.h"

// Ten characters and the zero that snprintf writes.
enum { ANSWER_BYTES = 11 };

static uint32_t crc32(const uint8_t *bytes, size_t length) {
    uint32_t crc = 0xffffffff;
    for (size_t n = 0; n < length; n++) {
        crc ^= bytes[n];
        for (int bit = 0; bit < 8; bit++) crc = (crc >> 1) ^ (0xedb88320 & -(crc & 1));
    }
    return ~crc;
}

bool exports_astrid_bus_handler_handle(crc_string_t *handler, exports_astrid_bus_handler_message_t *message,
                                       crc_list_u8_t *answer, exports_astrid_bus_handler_refusal_t *refusal) {
    bool empty = message->payload.len == 0;
    if (empty) {
        refusal->code = ASTRID_BUS_TYPES_REFUSAL_CODE_INVALID;
        crc_string_dup(&refusal->reason, "there is nothing to take the checksum of");
    } else {
        char text[ANSWER_BYTES];
        snprintf(text, sizeof text, "\"%08x\"", (unsigned)crc32(message->payload.ptr, message->payload.len));
        crc_string_t copy;
        crc_string_dup(&copy, text);
        answer->ptr = copy.ptr;
        answer->len = copy.len;
    }
    crc_string_free(handler);
    exports_astrid_bus_handler_message_free(message);
    return !empty;
}
