// Bytes, text and percent-encoding: QuickJS has neither TextDecoder nor TextEncoder.

import { Problem } from "./problems.js";

/** The text of UTF-8 bytes; throws a URIError if they are none. */
export function decoded(bytes) {
    let text = "";
    for (const byte of bytes) text += String.fromCharCode(byte);
    return decodeURIComponent(escape(text));
}

export function encoded(text) {
    return Uint8Array.from(unescape(encodeURIComponent(text)), (character) => character.charCodeAt(0));
}

/** A part of a path or a query. */
export function unescaped(raw) {
    try {
        return decodeURIComponent(raw);
    } catch {
        throw new Problem("bad_request", "path and query must be UTF-8 in percent-encoding");
    }
}
