/* One text without what has a secret's shape: `domain.redact.redact_text`, which says what each part
 * means and in whose order they stand here, byte for byte instead of by regular expression. No
 * Python object is met, so the interpreter's lock is not needed.
 */
#define _GNU_SOURCE
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "_swift_text.h"

static const char REDACTED[] = "<redacted>";

enum {
    SPACE = 1,     /* \s of a pattern that is ASCII's */
    ALNUM = 2,     /* A-Z a-z 0-9 */
    WORD = 4,      /* and _ - . */
    JWT = 8,       /* and _ - */
    UPPER = 16,    /* A-Z 0-9 */
    LOGIN = 32,    /* ends a URL's login */
    VALUE = 64,    /* ends a bare value */
    BEARER = 128   /* of a bearer's token */
};

static uint8_t kind[256];

void
text_setup(void)
{
    memset(kind, 0, sizeof kind);
    for (int c = 0; c < 128; c++) {
        int upper = (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9');
        if (upper)
            kind[c] |= UPPER;
        if (upper || (c >= 'a' && c <= 'z'))
            kind[c] |= ALNUM | WORD | JWT | BEARER;
    }
    for (const char *c = " \t\n\r\f\v"; *c; c++)
        kind[(uint8_t)*c] |= SPACE | LOGIN | VALUE;
    for (const char *c = "_-."; *c; c++)
        kind[(uint8_t)*c] |= WORD;
    kind['_'] |= JWT;
    kind['-'] |= JWT;
    for (const char *c = "/?#\"'<>"; *c; c++)
        kind[(uint8_t)*c] |= LOGIN;
    for (const char *c = "\"'`&,;)]}"; *c; c++)
        kind[(uint8_t)*c] |= VALUE;
    for (const char *c = "._~+/=-"; *c; c++)
        kind[(uint8_t)*c] |= BEARER;
}

int
bytes_put(Bytes *out, const void *from, size_t length)
{
    if (out->failed || out->size - out->length < length) {
        size_t size = (out->length + length) * 5 / 4 + 256;
        uint8_t *more = out->failed ? NULL : realloc(out->made, size);
        if (more == NULL) {
            out->failed = 1;
            return 0;
        }
        out->made = more;
        out->size = size;
    }
    if (length) /* of no bytes there may be no buffer either */
        memcpy(out->made + out->length, from, length);
    out->length += length;
    return 1;
}

static inline uint8_t
lower(uint8_t c)
{
    return c >= 'A' && c <= 'Z' ? c | 0x20 : c;
}

static inline int
starts(const uint8_t *at, const uint8_t *end, const char *word)
{
    size_t length = strlen(word);
    return (size_t)(end - at) >= length && !memcmp(at, word, length);
}

/* The same in any case; `word` is in lower case. */
static int
starts_any(const uint8_t *at, const uint8_t *end, const char *word)
{
    for (; *word; word++, at++)
        if (at >= end || lower(*at) != (uint8_t)*word)
            return 0;
    return 1;
}

static inline const uint8_t *
run(const uint8_t *at, const uint8_t *end, int of)
{
    while (at < end && kind[*at] & of)
        at++;
    return at;
}

static inline const uint8_t *
run_until(const uint8_t *at, const uint8_t *end, int of)
{
    while (at < end && !(kind[*at] & of))
        at++;
    return at;
}

/* What was read and not put yet, and a mark in place of the rest. */
static void
replace(Bytes *out, const uint8_t **kept, const uint8_t *start, const uint8_t *end)
{
    bytes_put(out, *kept, (size_t)(start - *kept));
    bytes_put(out, REDACTED, sizeof REDACTED - 1);
    *kept = end;
}

/* -- the names of secrets -------------------------------------------------------------------------- */

/* Behind up to three characters that are neither letters nor digits, and `word`; NULL: not there. */
static const uint8_t *
after_gap(const uint8_t *at, const uint8_t *end, const char *word)
{
    for (int gap = 0; gap <= 3; gap++) {
        if (at >= end)
            return NULL;
        if (kind[*at] & ALNUM)
            return starts_any(at, end, word) ? at + strlen(word) : NULL;
        for (at++; at < end && (*at & 0xC0) == 0x80; at++)
            ;
    }
    return NULL;
}

static const uint8_t *
name_but_token(const uint8_t *at, const uint8_t *end)
{
    static const char *const plain[] = {"secret", "passwd", "authorization", "cookie", "credential",
                                        "signature"};
    static const char *const parted[][2] = {{"pass", "word"}, {"api", "key"}, {"private", "key"}};
    switch (lower(*at)) {
    case 's': case 'p': case 'a': case 'c':
        break;
    default:
        return NULL;
    }
    for (size_t i = 0; i < sizeof plain / sizeof *plain; i++)
        if (starts_any(at, end, plain[i]))
            return at + strlen(plain[i]);
    for (size_t i = 0; i < sizeof parted / sizeof *parted; i++)
        if (starts_any(at, end, parted[i][0])) {
            const uint8_t *after = after_gap(at + strlen(parted[i][0]), end, parted[i][1]);
            if (after != NULL)
                return after;
        }
    return NULL;
}

/* Behind the name of a secret that begins here; NULL: none does. */
static const uint8_t *
name_at(const uint8_t *at, const uint8_t *end)
{
    if (lower(*at) != 't')
        return name_but_token(at, end);
    if (!starts_any(at, end, "token"))
        return NULL;
    const uint8_t *after = at + 5;
    if (end - after > 2) { /* tokenize and its like, which are words */
        int small = after[0] == 'i' && (after[1] == 's' || after[1] == 'z');
        int large = at[4] == 'N' && after[0] == 'I' && (after[1] == 'S' || after[1] == 'Z');
        if ((small || large) &&
            (starts_any(after + 2, end, "e") || starts_any(after + 2, end, "ing") ||
             starts_any(after + 2, end, "ation") || starts_any(after + 2, end, "able")))
            return NULL;
    }
    return after;
}

int
names_secret(const uint8_t *at, size_t length)
{
    for (const uint8_t *end = at + length; at < end; at++)
        if (name_at(at, end) != NULL)
            return 1;
    return 0;
}

/* -- shapes ---------------------------------------------------------------------------------------- */

/* Behind `begin` (-----BEGIN or -----END and a space), up to forty capitals, digits and spaces, PRIVATE
 * KEY, and up to twenty characters before five dashes. */
static const uint8_t *
pem_line(const uint8_t *at, const uint8_t *end, const char *begin)
{
    if (!starts(at, end, begin))
        return NULL;
    at += strlen(begin);
    int most = 0;
    while (most < 40 && at + most < end && (kind[at[most]] & UPPER || at[most] == ' '))
        most++;
    for (; most >= 0; most--) {
        if (!starts(at + most, end, "PRIVATE KEY"))
            continue;
        const uint8_t *after = at + most + 11;
        int characters = 0;
        for (; after < end && *after != '-'; after++)
            characters += (*after & 0xC0) != 0x80;
        if (characters <= 20 && starts(after, end, "-----"))
            return after + 5;
    }
    return NULL;
}

static void
pem(const uint8_t *at, const uint8_t *end, Bytes *out)
{
    const uint8_t *kept = at;
    while ((at = memmem(at, (size_t)(end - at), "-----BEGIN ", 11)) != NULL) {
        const uint8_t *after = pem_line(at, end, "-----BEGIN ");
        if (after == NULL) {
            at++;
            continue;
        }
        const uint8_t *found = after, *closed = NULL;
        while (closed == NULL &&
               (found = memmem(found, (size_t)(end - found), "-----END ", 9)) != NULL)
            if ((closed = pem_line(found, end, "-----END ")) == NULL)
                found++;
        after = closed == NULL ? end : closed;
        replace(out, &kept, at, after);
        at = after;
    }
    bytes_put(out, kept, (size_t)(end - kept));
}

static void
url_login(const uint8_t *at, const uint8_t *end, Bytes *out)
{
    const uint8_t *kept = at;
    while (at < end && (at = memchr(at, ':', (size_t)(end - at))) != NULL) {
        const uint8_t *here = at + 1;
        at++;
        int slashes = 0;
        for (; slashes < 2; slashes++) {
            here += here < end && *here == '\\';
            if (here >= end || *here++ != '/')
                break;
        }
        if (slashes < 2)
            continue;
        const uint8_t *after = here, *last = NULL;
        while (after < end && !(kind[*after] & LOGIN) && *after != '@' && *after != ':')
            after++;
        if (after >= end || *after != ':')
            continue;
        const uint8_t *first = ++after;
        for (; after < end && !(kind[*after] & LOGIN); after++)
            if (*after == '@' && after > first)
                last = after;
        if (last != NULL) {
            replace(out, &kept, here, last + 1);
            at = last + 1;
        }
    }
    bytes_put(out, kept, (size_t)(end - kept));
}

static void
jwt(const uint8_t *at, const uint8_t *end, Bytes *out)
{
    const uint8_t *kept = at;
    while ((at = memmem(at, (size_t)(end - at), "eyJ", 3)) != NULL) {
        const uint8_t *after = run(at + 3, end, JWT);
        if (after - at < 9) {
            at++;
            continue;
        }
        const uint8_t *tail = after;
        int parts = 0;
        for (; parts < 4 && tail < end && *tail == '.'; parts++)
            tail = run(tail + 1, end, JWT);
        if (parts >= 2) {
            replace(out, &kept, at, tail);
            after = tail;
        }
        at = after;
    }
    bytes_put(out, kept, (size_t)(end - kept));
}

/* Whether a word stands behind `bearer` in prose. */
static int
is_prose(const uint8_t *at, size_t length)
{
    static const char *const words[] = {
        "a", "an", "and", "are", "as", "at", "auth", "authentication", "authentization",
        "authorisation", "authorization", "by", "can", "for", "from", "has", "header", "headers",
        "in", "is", "it", "may", "must", "no", "not", "of", "on", "only", "or", "s", "scheme",
        "schemes", "should", "that", "the", "to", "token", "tokens", "type", "was", "will", "with"};
    length -= length > 1 && at[length - 1] == '.';
    for (size_t i = 0; i < sizeof words / sizeof *words; i++)
        if (strlen(words[i]) == length && !memcmp(words[i], at, length))
            return 1;
    return 0;
}

static void
bearer(const uint8_t *at, const uint8_t *end, Bytes *out)
{
    const uint8_t *kept = at;
    while (at < end) {
        if (lower(*at) != 'b' || !starts_any(at, end, "bearer")) {
            at++;
            continue;
        }
        const uint8_t *token = at + 6, *began = token;
        for (;;) {
            if (token < end && strchr(" \t:=\"'+", *token) != NULL && *token)
                token++;
            else if (starts(token, end, "%20"))
                token += 3;
            else
                break;
        }
        const uint8_t *after = run(token, end, BEARER);
        if (token == began || after == token) {
            at++;
            continue;
        }
        if (!is_prose(token, (size_t)(after - token)))
            replace(out, &kept, at, after);
        at = after;
    }
    bytes_put(out, kept, (size_t)(end - kept));
}

static void
keys(const uint8_t *at, const uint8_t *end, Bytes *out)
{
    const uint8_t *kept = at, *began = at;
    while (at < end) {
        const uint8_t *after = NULL;
        int is_word = 0;
        if (*at == 's' && starts(at, end, "sk-") && (at == began || !(kind[at[-1]] & ALNUM))) {
            after = run(at + 3, end, JWT);
            if (after - at < 7)
                after = NULL;
            else if (after - at < 11) {
                is_word = 1;
                for (const uint8_t *c = at + 3; c < after; c++)
                    is_word &= !(*c >= '0' && *c <= '9');
            }
        } else if (*at == 'g' && end - at > 4 && at[1] == 'h') {
            if (at[2] >= 'a' && at[2] <= 'z' && at[3] == '_') {
                after = run(at + 4, end, ALNUM);
                after = after - at < 8 ? NULL : after;
            }
        } else if (*at == 'g' && starts(at, end, "github_pat_")) {
            for (after = at + 11; after < end && (kind[*after] & ALNUM || *after == '_'); after++)
                ;
            after = after - at < 15 ? NULL : after;
        } else if (*at == 'A' && (starts(at, end, "AKIA") || starts(at, end, "ASIA"))) {
            after = run(at + 4, end, UPPER);
            after = after - at < 16 ? NULL : after;
        }
        if (after == NULL)
            at++;
        else {
            if (!is_word)
                replace(out, &kept, at, after);
            at = after;
        }
    }
    bytes_put(out, kept, (size_t)(end - kept));
}

/* -- NAME=value ------------------------------------------------------------------------------------ */

typedef struct {
    const uint8_t *sep, *value, *end; /* `sep` is NULL: no value follows */
    size_t close;                     /* bytes of the quote that closes the name */
    int opens;                        /* the value is in brackets, which `end` stands before */
} Assigned;

/* Behind a quoted text whose quote is at `at`. */
static const uint8_t *
quoted(const uint8_t *at, const uint8_t *end)
{
    uint8_t quote = *at++;
    while (at < end && *at != quote)
        at += 1 + (*at == '\\');
    return at < end ? at + 1 : end;
}

/* Where the value that begins here ends; NULL: there is none. */
static const uint8_t *
value_at(const uint8_t *at, const uint8_t *end, int *opens)
{
    static const char *const schemes[] = {"bearer", "basic", "digest", "token", "negotiate",
                                          "apikey"};
    *opens = at < end && (*at == '[' || *at == '{');
    if (*opens)
        return at;
    if (at < end && (*at == '"' || *at == '\''))
        return quoted(at, end);
    if (at < end && *at == '`') {
        const uint8_t *close = memchr(at + 1, '`', (size_t)(end - at - 1));
        return close == NULL ? end : close + 1;
    }
    int slashes = 0;
    while (slashes < 8 && at + slashes < end && at[slashes] == '\\')
        slashes++;
    if (slashes && at + slashes < end && (at[slashes] == '"' || at[slashes] == '\'')) {
        size_t length = (size_t)slashes + 1;
        const uint8_t *here = at + length;
        for (; here < end; here++)
            if (here[-1] != '\\' && (size_t)(end - here) >= length && !memcmp(here, at, length))
                return here + length;
        return end;
    }
    for (size_t i = 0; i < sizeof schemes / sizeof *schemes; i++)
        if (starts_any(at, end, schemes[i])) {
            const uint8_t *blank = at + strlen(schemes[i]), *word = blank;
            while (word < end && (*word == ' ' || *word == '\t'))
                word++;
            const uint8_t *after = run_until(word, end, VALUE);
            if (word > blank && after > word)
                return after;
        }
    const uint8_t *after = run_until(at, end, VALUE);
    return after > at ? after : NULL;
}

static inline const uint8_t *
blanks(const uint8_t *at, const uint8_t *end)
{
    while (at < end && (*at == ' ' || *at == '\t' || *at == '*'))
        at++;
    return at;
}

/* What follows the name of a secret that ends at `at`. */
static void
assigned_at(const uint8_t *at, const uint8_t *end, Assigned *found)
{
    at = run(at, end, WORD);
    found->sep = NULL;
    found->end = at;
    const uint8_t *sep = at;
    int slashes = 0;
    while (slashes < 8 && at + slashes < end && at[slashes] == '\\')
        slashes++;
    found->close = 0;
    if (at + slashes < end && strchr("\"'`", at[slashes]) != NULL && at[slashes])
        found->close = (size_t)slashes + 1;
    at += found->close;
    at += at < end && *at == ']';
    at = blanks(at, end);
    if (at >= end)
        return;
    int most = 0; /* further characters of the sign that may be there, and need not */
    if (*at == ':') {
        if (end - at > 2 && at[1] == ':' && (kind[at[2]] & ALNUM || at[2] == '_') &&
            !(at[2] >= '0' && at[2] <= '9'))
            return;
        most = end - at > 1 && (at[1] == ':' || at[1] == '=');
    } else if (*at == '=') {
        while (most < 2 && end - at > most + 1 && (at[most + 1] == '=' || at[most + 1] == '>'))
            most++;
    } else
        return;
    for (; most >= 0; most--) {
        const uint8_t *value = blanks(at + 1 + most, end);
        const uint8_t *after = value_at(value, end, &found->opens);
        if (after != NULL) {
            found->sep = sep;
            found->value = value;
            found->end = after;
            return;
        }
    }
}

/* Behind the bracket that closes the one here; the end of the text if none does. */
static const uint8_t *
closing(const uint8_t *at, const uint8_t *end, int bare)
{
    int64_t depth = 0;
    while (at < end) {
        if (*at == '"' && !bare) {
            at = quoted(at, end);
            continue;
        }
        if (*at == '[' || *at == '{')
            depth++;
        else if ((*at == ']' || *at == '}') && --depth == 0)
            return at + 1;
        at++;
    }
    return end;
}

/* How many bytes the white space here has, of any script; 0: it is none. */
static size_t
space_at(const uint8_t *at, const uint8_t *end)
{
    if (kind[*at] & SPACE || (*at >= 0x1C && *at <= 0x1F))
        return 1;
    if (*at == 0xC2 && end - at > 1)
        return at[1] == 0x85 || at[1] == 0xA0 ? 2 : 0;
    if (end - at < 3 || *at < 0xE1 || *at > 0xE3)
        return 0;
    unsigned code = (unsigned)(*at & 0x0F) << 12 | (unsigned)(at[1] & 0x3F) << 6 | (at[2] & 0x3F);
    return code == 0x1680 || (code >= 0x2000 && code <= 0x200A) || code == 0x2028 ||
           code == 0x2029 || code == 0x202F || code == 0x205F || code == 0x3000 ? 3 : 0;
}

/* Whether nothing between is text but the keys of maps. */
static int
no_text_inside(const uint8_t *at, const uint8_t *end)
{
    while (at < end) {
        size_t space = space_at(at, end);
        if (space)
            at += space;
        else if ((*at >= '0' && *at <= '9') || (*at && strchr("{}[],.eE+-", *at) != NULL))
            at++;
        else if (starts(at, end, "true") || starts(at, end, "null"))
            at += 4;
        else if (starts(at, end, "false"))
            at += 5;
        else if (*at == '"') {
            for (at++; at < end && *at != '"' && *at != '\\' && *at != ':' && *at != '='; at++)
                ;
            if (at >= end || *at != '"')
                return 0;
            at++;
            while (at < end && (space = space_at(at, end)))
                at += space;
            if (at >= end || *at++ != ':')
                return 0;
        } else
            return 0;
    }
    return 1;
}

static int
is_literal(const uint8_t *at, const uint8_t *end)
{
    static const char *const words[] = {"true", "false", "null", "nil", "none", "undefined", "nan"};
    end -= end - at > 1 && end[-1] == '.';
    for (size_t i = 0; i < sizeof words / sizeof *words; i++)
        if (strlen(words[i]) == (size_t)(end - at) && starts_any(at, end, words[i]))
            return 1;
    return 0;
}

static inline int
is_quote(uint8_t c)
{
    return c == '\\' || c == '"' || c == '\'' || c == '`';
}

static int
is_number(const uint8_t *at, const uint8_t *end)
{
    while (at < end && is_quote(*at))
        at++;
    at += at < end && (*at == '+' || *at == '-');
    if (at >= end || *at < '0' || *at > '9')
        return 0;
    while (at < end && ((*at >= '0' && *at <= '9') || *at == '_' || *at == '.'))
        at++;
    at += at < end && *at == '%';
    while (at < end && is_quote(*at))
        at++;
    return at == end;
}

/* Whether a plain number behind this name counts tokens and is none itself. */
static int
counts_tokens(const uint8_t *at, const uint8_t *end)
{
    static const char *const what[] = {"count", "limit", "budget", "usage", "total", "size"};
    int counts = 0;
    for (const uint8_t *here = at; here < end; here++) {
        if (name_but_token(here, end) != NULL)
            return 0;
        if (!starts_any(here, end, "token"))
            continue;
        const uint8_t *after = here + 5;
        counts |= after < end && lower(*after) == 's';
        after += after < end && (*after == '_' || *after == '.' || *after == '-');
        for (size_t i = 0; i < sizeof what / sizeof *what; i++)
            counts |= starts_any(after, end, what[i]);
    }
    return counts;
}

static int
ends_any(const uint8_t *at, const uint8_t *end, const char *word)
{
    size_t length = strlen(word);
    return (size_t)(end - at) >= length && starts_any(end - length, end, word);
}

/* Where a header's line ends that carries more than one value. */
static const uint8_t *
header_line(const uint8_t *at, const uint8_t *end)
{
    while (at < end) {
        if (*at == '"') {
            const uint8_t *close = at + 1;
            while (close < end && *close != '"' && *close != '\r' && *close != '\n')
                close++;
            if (at[-1] != '=' || close >= end || *close != '"')
                return at;
            at = close + 1;
        } else if (*at == '\\') {
            if (end - at > 1 && strchr("rn\"'", at[1]) != NULL && at[1])
                return at;
            at++;
        } else if (*at == '\r' || *at == '\n' || *at == '\'')
            return at;
        else
            at++;
    }
    return at;
}

static void
assigned(const uint8_t *at, const uint8_t *end, Bytes *out)
{
    const uint8_t *kept = at;
    while (at < end) {
        const uint8_t *start = at, *after = name_at(at, end);
        if (after == NULL) {
            at++;
            continue;
        }
        Assigned found;
        assigned_at(after, end, &found);
        after = at = found.end;
        if (found.sep == NULL)
            continue;
        if (found.opens) {
            at = closing(after, end, found.close && *found.sep == '\\');
            if (no_text_inside(after, at))
                continue;
            after = at;
        } else if (is_literal(found.value, after) ||
                   (is_number(found.value, after) && counts_tokens(start, found.sep)))
            continue;
        else if (!is_quote(*found.value) &&
                 (ends_any(start, found.sep, "authorization") ||
                  ends_any(start, found.sep, "cookie") || ends_any(start, found.sep, "cookies"))) {
            const uint8_t *line = header_line(found.value, end);
            after = at = line > after ? line : after;
        }
        while (start > kept && kind[start[-1]] & WORD)
            start--;
        if (found.close && (size_t)(start - kept) >= found.close &&
            !memcmp(start - found.close, found.sep, found.close))
            start -= found.close;
        replace(out, &kept, start, after);
    }
    bytes_put(out, kept, (size_t)(end - kept));
}

/* -- all of it --------------------------------------------------------------------------------------- */

/* Which of the shapes may be in it: a bit for each, by what no text of that shape is without. */
static int
may_hold(const uint8_t *at, size_t length)
{
    int assigns = 0, logins = 0, jwts = 0, dashes = 0, ids = 0, bearers = 0;
    for (const uint8_t *end = at + length; at < end; at++)
        switch (*at) {
        case ':': case '=': assigns = 1; break;
        case '@': logins = 1; break;
        case 'J': jwts = 1; break;
        case '-': dashes = 1; break;
        case '_': case 'I': ids = 1; break;
        case 'b': case 'B': bearers = 1; break;
        }
    return assigns | logins << 1 | jwts << 2 | dashes << 3 | ids << 4 | bearers << 5;
}

int
redact_text(const uint8_t *text, size_t length, Bytes *clean, Bytes *spare)
{
    int may = may_hold(text, length);
    if (may == 1 && !names_secret(text, length))
        return 0;
    if (!may)
        return 0;
    static void (*const passes[])(const uint8_t *, const uint8_t *, Bytes *) = {
        pem, url_login, jwt, bearer, keys, assigned};
    const int needs[] = {8, 2, 4, 32, 8 | 16, 1};
    const uint8_t *from = text;
    size_t size = length;
    for (size_t i = 0; i < sizeof passes / sizeof *passes; i++) {
        /* a mark that was put in has neither a sign nor a dash, an underline, a B nor a J */
        if (!(may & needs[i]))
            continue;
        Bytes *to = from == clean->made ? spare : clean;
        to->length = 0;
        passes[i](from, from + size, to);
        if (to->failed)
            return -1;
        if (to->length == size && (!size || !memcmp(to->made, from, size)))
            continue;
        from = to->made;
        size = to->length;
    }
    if (from == text || (size == length && !memcmp(from, text, size)))
        return 0;
    if (from == spare->made) {
        Bytes other = *clean;
        *clean = *spare;
        *spare = other;
    }
    return 1;
}
