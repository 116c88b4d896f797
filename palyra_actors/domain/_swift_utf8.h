#ifndef PALYRA_SWIFT_UTF8_H
#define PALYRA_SWIFT_UTF8_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

/* UTF-8 as RFC 3629 has it: no surrogates, nothing longer than need be, nothing above U+10FFFF. */
static inline int
is_utf8(const uint8_t *s, size_t length)
{
    const uint8_t *end = s + length;
    while (s < end) {
        while (end - s >= 8) {
            uint64_t eight;
            memcpy(&eight, s, 8);
            if (eight & 0x8080808080808080ULL)
                break;
            s += 8;
        }
        if (s == end)
            return 1;
        uint8_t lead = *s;
        if (lead < 0x80) {
            s++;
            continue;
        }
        int more = lead >= 0xF0 ? 3 : lead >= 0xE0 ? 2 : 1;
        if (lead < 0xC2 || lead > 0xF4 || end - s <= more)
            return 0;
        uint8_t low = lead == 0xE0 ? 0xA0 : lead == 0xF0 ? 0x90 : 0x80;
        uint8_t high = lead == 0xED ? 0x9F : lead == 0xF4 ? 0x8F : 0xBF;
        if (s[1] < low || s[1] > high)
            return 0;
        for (int i = 2; i <= more; i++)
            if ((s[i] & 0xC0) != 0x80)
                return 0;
        s += more + 1;
    }
    return 1;
}

#endif
