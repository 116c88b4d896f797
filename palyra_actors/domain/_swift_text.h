/* What `_swift_redact.c` needs of `_swift_text.c`. */
#include <stddef.h>
#include <stdint.h>

typedef struct {
    uint8_t *made;
    size_t length, size;
    int failed; /* there was no memory for it */
} Bytes;

void text_setup(void);

/* 0: there was no memory. */
int bytes_put(Bytes *out, const void *from, size_t length);

/* Whether a map's key names a secret, anywhere in it, in any case. */
int names_secret(const uint8_t *key, size_t length);

/* 1: `clean` holds the text without its secrets; 0: there are none; -1: there was no memory. Both
 * buffers are overwritten; the text is valid UTF-8. */
int redact_text(const uint8_t *text, size_t length, Bytes *clean, Bytes *spare);
