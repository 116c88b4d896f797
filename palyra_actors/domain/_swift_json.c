/* What a large state costs most, compiled. Optional, as `_swift.c` is: each has a twin in Python,
 * which it is held equal to (tests/domain/test_swift_json.py).
 *
 *     survey    a value ──▶ how deep, how many, what is in it         domain.survey.survey_plainly
 *     mend      orjson's sorted text ──▶ the canonical one, or None   domain.canonical.by_value
 *     splice    a canonical text, one operation ──▶ the canonical text after it, or None
 *                                                                     domain.canonical.canonical
 */
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

enum {
    VERSION = 2,       /* of what is agreed with domain/swift.py: another one is not used */
    DEPTH_MAX = 1100,  /* beyond what decoders let through; deeper is not looked at */
    FRACTIONS = 1,     /* flags: see domain.survey */
    BINARY = 2,
    NOT_FINITE = 4,
    STRANGE = 8,
    NUMBER_BYTES_MAX = 32, /* of a number, in either form */
    DIGITS_MAX = 24
};

/* -- survey --------------------------------------------------------------------------------------- */

typedef struct {
    Py_ssize_t count;
    int deepest, flags;
} Seen;

/* Whether UTF-8 and UTF-16 sort it alike: nothing from U+D800 on is in it. */
static int
sorts_alike(PyObject *key)
{
    if (PyUnicode_KIND(key) == PyUnicode_1BYTE_KIND)
        return 1;
    if (PyUnicode_KIND(key) == PyUnicode_4BYTE_KIND)
        return 0; /* one of them is beyond U+FFFF, or it would take two bytes */
    const Py_UCS2 *at = PyUnicode_2BYTE_DATA(key);
    for (Py_ssize_t i = 0; i < PyUnicode_GET_LENGTH(key); i++)
        if (at[i] >= 0xD800)
            return 0;
    return 1;
}

static void
look(PyObject *value, int level, Seen *seen)
{
    seen->count++;
    PyTypeObject *type = Py_TYPE(value);
    if (type == &PyUnicode_Type || type == &PyBool_Type || value == Py_None)
        return;
    if (type == &PyLong_Type) {
        int beyond;
        long long number = PyLong_AsLongLongAndOverflow(value, &beyond);
        if (beyond || number > (1LL << 53) || number < -(1LL << 53))
            seen->flags |= FRACTIONS;
    } else if (type == &PyFloat_Type) {
        double number = PyFloat_AS_DOUBLE(value), size = number < 0 ? -number : number;
        if (!(size < 1e16 && size >= 1e-5) || number == (double)(int64_t)number)
            seen->flags |= FRACTIONS;
        if (number - number != 0)
            seen->flags |= NOT_FINITE;
    } else if (type == &PyDict_Type || type == &PyList_Type) {
        if (level > seen->deepest)
            seen->deepest = level;
        if (level > DEPTH_MAX)
            return;
        if (type == &PyList_Type) {
            for (Py_ssize_t i = 0; i < PyList_GET_SIZE(value); i++)
                look(PyList_GET_ITEM(value, i), level + 1, seen);
            return;
        }
        PyObject *key, *each;
        Py_ssize_t at = 0;
        while (PyDict_Next(value, &at, &key, &each)) {
            if (!PyUnicode_CheckExact(key))
                seen->flags |= STRANGE;
            else if (!sorts_alike(key))
                seen->flags |= FRACTIONS;
            look(each, level + 1, seen);
        }
    } else
        seen->flags |= type == &PyBytes_Type ? BINARY : STRANGE;
}

static PyObject *
swift_survey(PyObject *module, PyObject *value)
{
    (void)module;
    Seen seen = {0, 0, 0};
    look(value, 1, &seen);
    return Py_BuildValue("(ini)", seen.deepest, seen.count, seen.flags);
}

/* -- mend ------------------------------------------------------------------------------------------ */

typedef struct {
    char *made, *to, *end;
} Out;

static int
put(Out *out, const char *from, size_t length)
{
    if ((size_t)(out->end - out->to) < length) {
        size_t had = (size_t)(out->to - out->made), size = (had + length) * 5 / 4 + 64;
        char *more = realloc(out->made, size);
        if (more == NULL)
            return 0;
        out->made = more;
        out->to = more + had;
        out->end = more + size;
    }
    memcpy(out->to, from, length);
    out->to += length;
    return 1;
}

/* A number as ECMAScript writes it: 0.DIGITS times ten to the `point`, no zeros around the digits. */
static size_t
ecmascript(char *to, const char *digits, int count, int point, int negative)
{
    char *began = to;
    if (!count) {
        *to = '0';
        return 1;
    }
    if (negative)
        *to++ = '-';
    if (count <= point && point <= 21) {
        memcpy(to, digits, (size_t)count);
        memset(to + count, '0', (size_t)(point - count));
        return (size_t)(to + point - began);
    }
    if (0 < point && point <= 21) {
        memcpy(to, digits, (size_t)point);
        to[point] = '.';
        memcpy(to + point + 1, digits + point, (size_t)(count - point));
        return (size_t)(to + count + 1 - began);
    }
    if (-6 < point && point <= 0) {
        memcpy(to, "0.", 2);
        memset(to + 2, '0', (size_t)-point);
        memcpy(to + 2 - point, digits, (size_t)count);
        return (size_t)(to + 2 - point + count - began);
    }
    *to++ = digits[0];
    if (count > 1) {
        *to++ = '.';
        memcpy(to, digits + 1, (size_t)(count - 1));
        to += count - 1;
    }
    return (size_t)(to + snprintf(to, 8, "e%+d", point - 1) - began);
}

/* The same from any decimal text of a number; 0: it is longer than any that orjson writes. */
static size_t
rewrite(char *to, const char *at, const char *end)
{
    char digits[DIGITS_MAX];
    int count = 0, point = 0, seen_point = 0, negative = at < end && *at == '-', exponent = 0;
    for (at += negative; at < end && *at != 'e'; at++) {
        if (*at == '.')
            seen_point = 1;
        else if (*at == '0' && !count)
            point -= seen_point;
        else {
            if (count == DIGITS_MAX)
                return 0;
            digits[count++] = *at;
            point += !seen_point;
        }
    }
    if (at < end) {
        int below = *++at == '-';
        for (at += below || *at == '+'; at < end && exponent < 1000; at++)
            exponent = exponent * 10 + (*at - '0');
        exponent = below ? -exponent : exponent;
    }
    while (count && digits[count - 1] == '0')
        count--;
    return ecmascript(to, digits, count, point + exponent, negative);
}

/* An integer beyond 2^53, as the double that JSON's readers make of it. */
static size_t
rewrite_integer(char *to, const char *at, size_t length)
{
    char text[NUMBER_BYTES_MAX];
    if (length >= sizeof text)
        return 0;
    memcpy(text, at, length);
    text[length] = 0;
    double value = PyOS_string_to_double(text, NULL, NULL);
    char *shortest = PyErr_Occurred() ? NULL : PyOS_double_to_string(value, 'r', 0, 0, NULL);
    if (shortest == NULL) {
        PyErr_Clear();
        return 0;
    }
    size_t made = rewrite(to, shortest, shortest + strlen(shortest));
    PyMem_Free(shortest);
    return made;
}

/* The closing quote of the string whose text begins at `at`; NULL: there is none. */
static const char *
closing(const char *at, const char *end, int *odd)
{
    while (at < end) {
        while (end - at >= 8) { /* eight at a time, as long as none is special */
            uint64_t eight, quote, slash;
            memcpy(&eight, at, 8);
            quote = eight ^ 0x2222222222222222ULL;
            slash = eight ^ 0x5C5C5C5C5C5C5C5CULL;
            if ((eight | ((quote - 0x0101010101010101ULL) & ~quote) |
                 ((slash - 0x0101010101010101ULL) & ~slash)) & 0x8080808080808080ULL)
                break;
            at += 8;
        }
        if (at == end)
            return NULL;
        if (*at == '"')
            return at;
        *odd |= (uint8_t)*at >= 0xEE; /* the first byte of what UTF-16 sorts otherwise */
        at += 1 + (*at == '\\');
    }
    return NULL;
}

static int
mend(const char *at, const char *end, Out *out)
{
    const char *kept = at; /* what was read and not yet put */
    while (at < end) {
        char here = *at;
        if (here == '"') {
            int odd = 0;
            const char *close = closing(at + 1, end, &odd);
            if (close == NULL || (odd && close + 1 < end && close[1] == ':'))
                return 0; /* a key that may be sorted otherwise */
            at = close + 1;
            continue;
        }
        if (here != '-' && (here < '0' || here > '9')) {
            at++;
            continue;
        }
        const char *began = at, *point = NULL, *power = NULL;
        for (; at < end && *at != ',' && *at != ']' && *at != '}'; at++) {
            if (*at == '.')
                point = at;
            else if (*at == 'e')
                power = at;
        }
        size_t length = (size_t)(at - began), size;
        char number[NUMBER_BYTES_MAX + DIGITS_MAX];
        if (power != NULL)
            size = rewrite(number, began, at);
        else if (point != NULL) {
            if (at - point != 2 || point[1] != '0')
                continue; /* as it is */
            size = rewrite(number, began, at);
        } else if (length < 16)
            continue;
        else {
            unsigned long long value = strtoull(began + (here == '-'), NULL, 10);
            if (value <= 1ULL << 53)
                continue;
            size = rewrite_integer(number, began, length);
        }
        if (!size || !put(out, kept, (size_t)(began - kept)) || !put(out, number, size))
            return 0;
        kept = at;
    }
    return put(out, kept, (size_t)(end - kept));
}

static PyObject *
swift_mend(PyObject *module, PyObject *text)
{
    (void)module;
    if (!PyBytes_CheckExact(text)) {
        PyErr_SetString(PyExc_TypeError, "a text is bytes");
        return NULL;
    }
    size_t length = (size_t)PyBytes_GET_SIZE(text);
    Out out = {malloc(length + 64), NULL, NULL};
    if (out.made == NULL)
        return PyErr_NoMemory();
    out.to = out.made;
    out.end = out.made + length + 64;
    PyObject *made = Py_None;
    if (mend(PyBytes_AS_STRING(text), PyBytes_AS_STRING(text) + length, &out))
        made = PyBytes_FromStringAndSize(out.made, out.to - out.made);
    else
        Py_INCREF(made);
    free(out.made);
    return made;
}

/* -- splice ---------------------------------------------------------------------------------------- */

enum {
    ADD = 0, /* as domain.canonical tells them */
    REPLACE = 1,
    REMOVE = 2,
    BLOCK = 64,
    INDEX_DIGITS_MAX = 9
};

/* Of 64 bytes, which are of each kind: a bit a byte, the first the lowest. */
typedef struct {
    uint64_t quotes, slashes, commas, opening, closing;
} Masks;

#ifdef __SSE2__
#include <emmintrin.h>

static inline uint64_t
which(__m128i of, char like, int place)
{
    __m128i same = _mm_cmpeq_epi8(of, _mm_set1_epi8(like));
    return (uint64_t)(unsigned)_mm_movemask_epi8(same) << place;
}

static Masks
masks_of(const char *at)
{
    Masks made = {0, 0, 0, 0, 0};
    for (int place = 0; place < BLOCK; place += 16) {
        __m128i here = _mm_loadu_si128((const __m128i *)(const void *)(at + place));
        __m128i low = _mm_or_si128(here, _mm_set1_epi8(0x20)); /* [ as {, ] as } */
        made.quotes |= which(here, '"', place);
        made.slashes |= which(here, '\\', place);
        made.commas |= which(here, ',', place);
        made.opening |= which(low, '{', place);
        made.closing |= which(low, '}', place);
    }
    return made;
}
#else
static Masks
masks_of(const char *at)
{
    Masks made = {0, 0, 0, 0, 0};
    for (int place = 0; place < BLOCK; place++) {
        uint64_t bit = 1ULL << place;
        char here = at[place], low = here | 0x20;
        made.quotes |= here == '"' ? bit : 0;
        made.slashes |= here == '\\' ? bit : 0;
        made.commas |= here == ',' ? bit : 0;
        made.opening |= low == '{' ? bit : 0;
        made.closing |= low == '}' ? bit : 0;
    }
    return made;
}
#endif

/* Which bytes stand behind a backslash that is not behind one itself; `carry`: whether the first of
 * the next block does. */
static inline uint64_t
escaped_of(uint64_t slashes, uint64_t *carry)
{
    uint64_t escaped = *carry, at;
    slashes &= ~escaped;
    for (*carry = 0; slashes; slashes &= ~(at | at << 1)) { /* the first of each pair */
        at = slashes & -slashes;
        if (at >> 63)
            *carry = 1;
        escaped |= at << 1;
    }
    return escaped;
}

/* Behind the `count`th comma on the level of `at`, which is in no text; or the bracket that closes
 * the container around it, if that comes first, with `left` telling how many commas were missing.
 * NULL: the text ends before. */
static const char *
past_commas(const char *at, const char *end, size_t count, size_t *left)
{
    uint64_t in_text = 0, escape = 0;
    size_t depth = 0;
    for (; at < end; at += BLOCK) {
        char padded[BLOCK];
        const char *from = at;
        if (end - at < BLOCK) {
            memset(padded, ' ', BLOCK);
            memcpy(padded, at, (size_t)(end - at));
            from = padded;
        }
        Masks here = masks_of(from);
        uint64_t inside = here.quotes;
        if (here.slashes | escape)
            inside &= ~escaped_of(here.slashes, &escape);
        for (int width = 1; width < BLOCK; width *= 2)
            inside ^= inside << width; /* from each opening quote up to the closing one */
        inside ^= in_text;
        in_text = 0 - (inside >> 63);
        uint64_t commas = here.commas & ~inside;
        uint64_t brackets = (here.opening | here.closing) & ~inside, rest = ~0ULL;
        for (;;) {
            uint64_t bracket = brackets & -brackets; /* 0: the block's end */
            uint64_t before = depth ? 0 : commas & rest & (bracket ? bracket - 1 : ~0ULL);
            size_t found = before ? (size_t)__builtin_popcountll(before) : 0;
            if (found >= count) {
                while (--count)
                    before &= before - 1;
                return at + __builtin_ctzll(before) + 1;
            }
            count -= found;
            if (!bracket)
                break;
            if (bracket & here.opening)
                depth++;
            else if (depth-- == 0) {
                *left = count;
                return at + __builtin_ctzll(bracket);
            }
            brackets &= brackets - 1;
            rest = ~(bracket | (bracket - 1));
        }
    }
    return NULL;
}

/* Where one value of a container stands: from its key, or from itself in a list; `value`: behind the
 * key. `absent`: it would stand there. */
typedef struct {
    const char *from, *value;
    int absent;
} Spot;

/* The member of that name in the map whose text begins at `at`. */
static int
member(const char *at, const char *end, const char *name, size_t length, Spot *spot)
{
    size_t left;
    for (at++;;) {
        if (at >= end)
            return 0;
        spot->from = at;
        spot->absent = 1;
        if (*at == '}')
            return 1;
        int odd = 0;
        const char *close = *at == '"' ? closing(at + 1, end, &odd) : NULL;
        if (close == NULL || end - close < 3)
            return 0;
        size_t size = (size_t)(close - at - 1);
        int order = memcmp(at + 1, name, size < length ? size : length);
        if (memchr(at + 1, '\\', size) != NULL)
            return 0; /* it is not sorted as it is written */
        if (order == 0 && size == length) {
            spot->value = close + 2;
            spot->absent = 0;
            return 1;
        }
        if (order > 0 || (order == 0 && size > length))
            return 1;
        at = past_commas(close + 2, end, 1, &left);
        if (at == NULL)
            return 0;
    }
}

/* The item of that number in the list whose text begins at `at`; `name` may be - for one behind the
 * last. */
static int
item(const char *at, const char *end, const char *name, size_t length, Spot *spot)
{
    size_t number = 0, left = 0;
    if (length == 1 && *name == '-')
        number = (size_t)-1;
    else {
        if (length == 0 || length > INDEX_DIGITS_MAX)
            return 0;
        for (size_t i = 0; i < length; i++) {
            if (name[i] < '0' || name[i] > '9')
                return 0;
            number = number * 10 + (size_t)(name[i] - '0');
        }
    }
    at++;
    if (at < end && number && *at != ']')
        at = past_commas(at, end, number, &left);
    if (at == NULL || at >= end)
        return 0;
    spot->from = spot->value = at;
    spot->absent = *at == ']';
    return 1;
}

static PyObject *
spliced(const char *text, const char *end, const char *from, const char *to, const char *parts[],
        const size_t lengths[], int count)
{
    size_t head = (size_t)(from - text), tail = (size_t)(end - to), size = head + tail;
    for (int i = 0; i < count; i++)
        size += lengths[i];
    PyObject *made = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)size);
    if (made == NULL)
        return NULL;
    char *at = PyBytes_AS_STRING(made);
    memcpy(at, text, head);
    at += head;
    for (int i = 0; i < count; at += lengths[i++])
        memcpy(at, parts[i], lengths[i]);
    memcpy(at, to, tail);
    return made;
}

/* The text with one operation done, whose pointer has names of plain ASCII and no escapes. */
static PyObject *
splice(const char *text, const char *end, int op, const char *path, const char *path_end,
       const char *value, size_t length)
{
    const char *at = text, *name = path;
    size_t name_length = 0, left;
    Spot spot = {NULL, NULL, 0};
    int is_map = 0;
    if (path == path_end)
        Py_RETURN_NONE;
    while (path < path_end) {
        name = path + 1;
        for (path = name; path < path_end && *path != '/'; path++)
            if ((uint8_t)*path < 0x20 || (uint8_t)*path >= 0x7F || *path == '"' || *path == '\\' ||
                *path == '~')
                Py_RETURN_NONE;
        name_length = (size_t)(path - name);
        if (at >= end || (*at != '{' && *at != '['))
            Py_RETURN_NONE;
        is_map = *at == '{';
        if (!(is_map ? member : item)(at, end, name, name_length, &spot) ||
            (spot.absent && (path < path_end || op != ADD)))
            Py_RETURN_NONE;
        at = spot.value;
    }
    if (op == ADD && (spot.absent || !is_map)) {
        int last = *spot.from == '}' || *spot.from == ']';
        int first = spot.from > text && (spot.from[-1] == '{' || spot.from[-1] == '[');
        const char *parts[] = {last && !first ? "," : "", is_map ? "\"" : "", name,
                               is_map ? "\":" : "", value, last ? "" : ","};
        size_t lengths[] = {last && !first, (size_t)is_map, is_map ? name_length : 0,
                            is_map ? 2 : 0, length, !last};
        return spliced(text, end, spot.from, spot.from, parts, lengths, 6);
    }
    const char *past = past_commas(spot.value, end, 1, &left);
    if (past == NULL)
        Py_RETURN_NONE;
    int last = *past == '}' || *past == ']';
    if (op == REMOVE) {
        int first = spot.from > text && (spot.from[-1] == '{' || spot.from[-1] == '[');
        return spliced(text, end, spot.from - (last && !first), past, NULL, NULL, 0);
    }
    return spliced(text, end, spot.value, past - !last, &value, &length, 1);
}

static PyObject *
swift_splice(PyObject *module, PyObject *const *given, Py_ssize_t count)
{
    (void)module;
    Py_ssize_t path_size;
    if (count != 4 || !PyBytes_CheckExact(given[0]) || !PyLong_CheckExact(given[1]) ||
        !PyUnicode_CheckExact(given[2]) || !PyBytes_CheckExact(given[3])) {
        PyErr_SetString(PyExc_TypeError, "a text, an operation, a pointer and a value's text");
        return NULL;
    }
    const char *path = PyUnicode_AsUTF8AndSize(given[2], &path_size);
    if (path == NULL) {
        PyErr_Clear();
        Py_RETURN_NONE;
    }
    const char *text = PyBytes_AS_STRING(given[0]);
    return splice(text, text + PyBytes_GET_SIZE(given[0]), (int)PyLong_AsLong(given[1]), path,
                  path + path_size, PyBytes_AS_STRING(given[3]), (size_t)PyBytes_GET_SIZE(given[3]));
}

/* -- the module ------------------------------------------------------------------------------------ */

static PyMethodDef methods[] = {
    {"survey", swift_survey, METH_O, NULL},
    {"mend", swift_mend, METH_O, NULL},
    {"splice", (PyCFunction)(void (*)(void))swift_splice, METH_FASTCALL, NULL},
    {NULL, NULL, 0, NULL}};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT, .m_name = "_swift_json", .m_size = -1, .m_methods = methods};

PyMODINIT_FUNC
PyInit__swift_json(void)
{
    PyObject *module = PyModule_Create(&definition);
    if (module != NULL && PyModule_AddIntConstant(module, "VERSION", VERSION) < 0)
        Py_CLEAR(module);
    return module;
}
