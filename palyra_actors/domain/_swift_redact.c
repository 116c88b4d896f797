/* The walk that takes secrets out of a payload, over its MessagePack, compiled. Optional, as
 * `_swift.c` is: its twins are `domain.redact.redact` and `redact_text`, which say what it means
 * (tests/domain/test_swift_redact.py).
 *
 *     redact         a map's bytes ──▶ whether anything was found, and the bytes without it
 *     redact_text    one text ──▶ the same without what has a secret's shape, or None
 *     is_sound       whether bytes are one value that `domain.values` allows
 *
 * It makes no object of what it reads and holds no interpreter's lock meanwhile: a frame of 4 MiB of
 * the smallest maps takes a tenth of a second or two, in which others are served.
 */
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "_swift_text.h"
#include "_swift_utf8.h"

enum {
    VERSION = 1, /* of what is agreed with domain/swift.py: another one is not used */
    DEPTH_MAX = 64,
    ALONE_BYTES_MIN = 4096 /* below it, giving the interpreter's lock back costs more */
};

typedef struct {
    const uint8_t *at, *end;
} Cursor;

/* -- reading ------------------------------------------------------------------------------------- */

enum { MAP, LIST, TEXT, BINARY, SIGNED, UNSIGNED, FLOAT4, FLOAT8, ONE_BYTE, WRONG };

typedef struct {
    int kind;
    uint64_t number; /* of items, pairs or bytes; or its bits */
} Head;

/* The head of the value that begins here, and for texts and bytes that all of it is there. */
static Head
read_head(Cursor *c)
{
    Head head = {WRONG, 0};
    if (c->at >= c->end)
        return head;
    uint8_t first = *c->at++;
    int width = 0;
    if (first < 0x80 || first >= 0xE0 || first == 0xC0 || first == 0xC2 || first == 0xC3) {
        head.kind = ONE_BYTE;
        head.number = first;
        return head;
    }
    if (first < 0xC0) {
        head.kind = first < 0x90 ? MAP : first < 0xA0 ? LIST : TEXT;
        head.number = first & (first < 0xA0 ? 0x0F : 0x1F);
    } else if (first >= 0xC4 && first <= 0xC6) {
        head.kind = BINARY;
        width = 1 << (first - 0xC4);
    } else if (first == 0xCA || first == 0xCB) {
        head.kind = first == 0xCA ? FLOAT4 : FLOAT8;
        width = first == 0xCA ? 4 : 8;
    } else if (first >= 0xCC && first <= 0xD3) {
        head.kind = first < 0xD0 ? UNSIGNED : SIGNED;
        width = 1 << (first & 3);
    } else if (first >= 0xD9 && first <= 0xDB) {
        head.kind = TEXT;
        width = 1 << (first - 0xD9);
    } else if (first >= 0xDC) {
        head.kind = first < 0xDE ? LIST : MAP;
        width = first & 1 ? 4 : 2;
    } else
        return head;
    if (c->end - c->at < width) {
        head.kind = WRONG;
        return head;
    }
    for (int i = 0; i < width; i++)
        head.number = head.number << 8 | *c->at++;
    if (head.kind == SIGNED && width < 8 && head.number >> (8 * width - 1))
        head.number |= ~(uint64_t)0 << (8 * width);
    if ((head.kind == TEXT || head.kind == BINARY) && (uint64_t)(c->end - c->at) < head.number)
        head.kind = WRONG;
    return head;
}

static uint8_t is_one[256];

/* Behind up to so many values of one byte each, empty maps and lists among them; how many they are. */
static inline uint64_t
pass_ones(Cursor *c, uint64_t most)
{
    const uint8_t *at = c->at, *end = c->end;
    if ((uint64_t)(end - at) > most)
        end = at + most;
    while (at < end && is_one[*at])
        at++;
    most = (uint64_t)(at - c->at);
    c->at = at;
    return most;
}

/* -- the names of a map's keys --------------------------------------------------------------------- */

enum { BEFORE = 1, AFTER = 2, COUNTED = 3 };

typedef struct {
    const uint8_t *text;
    uint32_t length, map;
    uint32_t what, number;
} Name;

typedef struct {
    Name *name;
    size_t room; /* a power of two */
    int crowded; /* too many names met in one place: somebody looked for such names */
} Names;

enum { TRIES_MAX = 256 };
static uint64_t seed; /* so that nobody can look for them beforehand */

static Name *
names_find(Names *names, uint32_t what, uint32_t map, const uint8_t *text, size_t length)
{
    uint64_t hash = seed ^ map ^ (uint64_t)what << 40;
    for (size_t i = 0; i < length; i++)
        hash = (hash ^ text[i]) * 1099511628211ULL;
    hash ^= hash >> 29;
    size_t place = (size_t)(hash * 0x9E3779B97F4A7C15ULL >> 20) & (names->room - 1);
    for (int tries = 0; names->name[place].what; tries++) {
        Name *one = &names->name[place];
        if (tries == TRIES_MAX) {
            names->crowded = 1;
            return one;
        }
        if (one->what == what && one->map == map && one->length == length &&
            !memcmp(one->text, text, length))
            return one;
        place = (place + 1) & (names->room - 1);
    }
    return &names->name[place];
}

static void
names_add(Name *place, uint32_t what, uint32_t map, const uint8_t *text, size_t length)
{
    *place = (Name){text, (uint32_t)length, map, what, 1};
}

/* -- the first pass: is it sound, and does a map name a key twice? --------------------------------- */

typedef struct {
    uint64_t left[DEPTH_MAX];
    uint32_t map[DEPTH_MAX];
    uint8_t is_map[DEPTH_MAX], named[DEPTH_MAX]; /* `named`: see who uses it */
    int depth;
} Levels;

/* Leave what has ended. */
static inline void
pop(Levels *levels)
{
    while (levels->depth && !levels->left[levels->depth - 1])
        levels->depth--;
}

/* How many pairs its maps of more than one have; -1: it is no value that is allowed, or goes on
 * behind it. */
static int64_t
count_pairs(Cursor c)
{
    Levels levels;
    int64_t pairs = 0;
    levels.depth = 0;
    do {
        int d = levels.depth - 1;
        if (d >= 0 && !levels.is_map[d] && levels.depth < DEPTH_MAX) { /* an empty one is a level */
            levels.left[d] -= pass_ones(&c, levels.left[d]);
            if (!levels.left[d]) {
                pop(&levels);
                continue;
            }
        }
        int is_key = d >= 0 && levels.is_map[d] && !(levels.left[d] & 1);
        if (d >= 0)
            levels.left[d]--;
        Head head = read_head(&c);
        if (is_key && head.kind != TEXT)
            return -1;
        switch (head.kind) {
        case WRONG:
            return -1;
        case MAP:
        case LIST:
            if (levels.depth == DEPTH_MAX)
                return -1;
            levels.is_map[levels.depth] = head.kind == MAP;
            levels.left[levels.depth++] = head.number << (head.kind == MAP);
            pairs += head.kind == MAP && head.number > 1 ? (int64_t)head.number : 0;
            break;
        case TEXT:
            if (!is_utf8(c.at, (size_t)head.number))
                return -1;
            c.at += head.number;
            break;
        case BINARY:
            c.at += head.number;
            break;
        case FLOAT4:
            if ((head.number & 0x7F800000ULL) == 0x7F800000ULL)
                return -1;
            break;
        case FLOAT8:
            if ((head.number & 0x7FF0000000000000ULL) == 0x7FF0000000000000ULL)
                return -1;
            break;
        }
        pop(&levels);
    } while (levels.depth);
    return c.at == c.end ? pairs : -1;
}

/* Note the keys of each map that has more than one. 0: one of them has a key twice, or they crowd. */
static int
note_keys(Cursor c, Names *names)
{
    Levels levels;
    uint32_t maps = 0;
    levels.depth = 0;
    do {
        int d = levels.depth - 1;
        if (d >= 0 && !levels.is_map[d]) {
            levels.left[d] -= pass_ones(&c, levels.left[d]);
            if (!levels.left[d]) {
                pop(&levels);
                continue;
            }
        }
        int is_key = d >= 0 && levels.is_map[d] && !(levels.left[d] & 1);
        if (d >= 0)
            levels.left[d]--;
        Head head = read_head(&c);
        if (is_key && levels.named[d]) {
            Name *place = names_find(names, BEFORE, levels.map[d], c.at, (size_t)head.number);
            if (place->what)
                return 0;
            names_add(place, BEFORE, levels.map[d], c.at, (size_t)head.number);
        }
        if (head.kind == MAP || head.kind == LIST) {
            levels.is_map[levels.depth] = head.kind == MAP;
            levels.map[levels.depth] = head.kind == MAP ? maps++ : 0;
            levels.named[levels.depth] = head.number > 1;
            levels.left[levels.depth++] = head.number << (head.kind == MAP);
        } else if (head.kind == TEXT || head.kind == BINARY)
            c.at += head.number;
        pop(&levels);
    } while (levels.depth);
    return 1;
}

/* -- writing: the shortest form of each ------------------------------------------------------------- */

static void
put_wide(Bytes *out, uint8_t head, uint64_t number, int width)
{
    uint8_t made[9] = {head};
    for (int i = 0; i < width; i++)
        made[1 + i] = (uint8_t)(number >> (8 * (width - 1 - i)));
    bytes_put(out, made, (size_t)width + 1);
}

static void
put_size(Bytes *out, int kind, uint64_t number)
{
    uint8_t few;
    if (kind == MAP || kind == LIST) {
        few = (uint8_t)((kind == MAP ? 0x80 : 0x90) | number);
        if (number < 16)
            bytes_put(out, &few, 1);
        else
            put_wide(out, (uint8_t)((kind == MAP ? 0xDE : 0xDC) + (number > 0xFFFF)), number,
                     number > 0xFFFF ? 4 : 2);
        return;
    }
    few = (uint8_t)(0xA0 | number);
    int step = number > 0xFFFF ? 2 : number > 0xFF;
    if (kind == TEXT && number < 32)
        bytes_put(out, &few, 1);
    else
        put_wide(out, (uint8_t)((kind == TEXT ? 0xD9 : 0xC4) + step), number, 1 << step);
}

static void
put_number(Bytes *out, Head head)
{
    if (head.kind == FLOAT4) {
        uint32_t bits = (uint32_t)head.number;
        float value;
        memcpy(&value, &bits, 4);
        double wide = value;
        memcpy(&head.number, &wide, 8);
    }
    if (head.kind == FLOAT4 || head.kind == FLOAT8)
        put_wide(out, 0xCB, head.number, 8);
    else if (head.kind == SIGNED && head.number >> 63) {
        int64_t value = (int64_t)head.number;
        uint8_t one = (uint8_t)value;
        if (value >= -32)
            bytes_put(out, &one, 1);
        else {
            int step = value >= -128 ? 0 : value >= -32768 ? 1 : value >= -2147483648LL ? 2 : 3;
            put_wide(out, (uint8_t)(0xD0 + step), head.number, 1 << step);
        }
    } else {
        uint8_t one = (uint8_t)head.number;
        if (head.number < 128)
            bytes_put(out, &one, 1);
        else {
            int step = head.number <= 0xFF ? 0 : head.number <= 0xFFFF ? 1
                       : head.number <= 0xFFFFFFFFULL ? 2 : 3;
            put_wide(out, (uint8_t)(0xCC + step), head.number, 1 << step);
        }
    }
}

static void
put_text(Bytes *out, int kind, const uint8_t *text, size_t length)
{
    put_size(out, kind, length);
    bytes_put(out, text, length);
}

/* -- the walk --------------------------------------------------------------------------------------- */

enum { FAILED = -1, ODD = 0, CLEAR = 1, FOUND = 2 };

typedef struct {
    Names names;
    Bytes out, clean, spare, made; /* `made`: names that were made, which `names` points into */
} Walk;

/* The key as it is to be called, put into `out`. */
static int
put_key(Walk *walk, uint32_t map, const uint8_t *key, size_t length)
{
    int changed = redact_text(key, length, &walk->clean, &walk->spare);
    if (changed < 0)
        return FAILED;
    if (!changed) {
        put_text(&walk->out, TEXT, key, length);
        return CLEAR;
    }
    const uint8_t *plain = walk->clean.made;
    size_t plain_length = walk->clean.length, room = plain_length + 12;
    /* never moved while names point into it: it was made large enough before, or another is made */
    if (walk->made.size - walk->made.length < 2 * room)
        return ODD;
    uint8_t *free_name = walk->made.made + walk->made.length;
    memcpy(free_name, plain, plain_length);
    size_t free_length = plain_length;
    Name *after = names_find(&walk->names, AFTER, map, free_name, free_length);
    if (after->what ||
        names_find(&walk->names, BEFORE, map, free_name, free_length)->what) {
        Name *counted = names_find(&walk->names, COUNTED, map, free_name, free_length);
        if (!counted->what) { /* it keeps the plain name; the free one is made behind it */
            names_add(counted, COUNTED, map, free_name, plain_length);
            walk->made.length += plain_length;
            free_name += plain_length;
            memcpy(free_name, plain, plain_length);
        }
        do {
            counted->number++;
            char digits[12];
            int count = snprintf(digits, sizeof digits, " %u", counted->number);
            memcpy(free_name + plain_length, digits, (size_t)count);
            free_length = plain_length + (size_t)count;
            after = names_find(&walk->names, AFTER, map, free_name, free_length);
        } while (!walk->names.crowded &&
                 (after->what ||
                  names_find(&walk->names, BEFORE, map, free_name, free_length)->what));
    }
    if (walk->names.crowded)
        return ODD;
    names_add(after, AFTER, map, free_name, free_length);
    walk->made.length += free_length;
    put_text(&walk->out, TEXT, free_name, free_length);
    return FOUND;
}

static int
is_models(const uint8_t *key, size_t length)
{
    return (length == 5 && !memcmp(key, "token", 5)) || (length == 6 && !memcmp(key, "tokens", 6)) ||
           (length == 4 && !memcmp(key, "text", 4));
}

/* `models`: whether it is of an event whose text is a model's. */
static int
redact_into(Walk *walk, Cursor c, int models)
{
    static const uint8_t REDACTED[] = "<redacted>";
    Bytes *out = &walk->out;
    Levels levels;
    uint32_t maps = 0;
    int found = 0, key_named = 0;
    levels.depth = 0;
    do {
        int d = levels.depth - 1, named = 0, is_key = 0;
        if (d >= 0 && !levels.is_map[d]) {
            const uint8_t *ones = c.at;
            levels.left[d] -= pass_ones(&c, levels.left[d]);
            bytes_put(out, ones, (size_t)(c.at - ones));
            if (!levels.left[d]) {
                pop(&levels);
                continue;
            }
        }
        if (d >= 0) {
            is_key = levels.is_map[d] && !(levels.left[d] & 1);
            named = levels.named[d] || (levels.is_map[d] && key_named);
            levels.left[d]--;
        }
        Head head = read_head(&c);
        if (is_key) {
            key_named = names_secret(c.at, (size_t)head.number) &&
                        !(models && !d && is_models(c.at, (size_t)head.number));
            int put = put_key(walk, levels.map[d], c.at, (size_t)head.number);
            if (put <= ODD)
                return put;
            found |= put == FOUND;
            c.at += head.number;
            continue;
        }
        key_named = 0;
        switch (head.kind) {
        case MAP:
        case LIST:
            put_size(out, head.kind, head.number);
            levels.is_map[levels.depth] = head.kind == MAP;
            levels.map[levels.depth] = head.kind == MAP ? maps++ : 0;
            levels.named[levels.depth] = (uint8_t)named;
            levels.left[levels.depth++] = head.number << (head.kind == MAP);
            break;
        case TEXT:
        case BINARY: {
            size_t length = (size_t)head.number;
            int changed = 0;
            if (named) {
                put_text(out, TEXT, REDACTED, sizeof REDACTED - 1);
                found = 1;
            } else {
                if (head.kind == TEXT || is_utf8(c.at, length))
                    changed = redact_text(c.at, length, &walk->clean, &walk->spare);
                if (changed < 0)
                    return FAILED;
                put_text(out, head.kind, changed ? walk->clean.made : c.at,
                         changed ? walk->clean.length : length);
                found |= changed;
            }
            c.at += length;
            break;
        }
        case ONE_BYTE: {
            uint8_t one = (uint8_t)head.number;
            bytes_put(out, &one, 1);
            break;
        }
        default:
            put_number(out, head);
        }
        pop(&levels);
    } while (levels.depth);
    return out->failed ? FAILED : found ? FOUND : CLEAR;
}

static int
redact(Walk *walk, Cursor c, int models)
{
    int64_t pairs = count_pairs(c);
    if (pairs < 0)
        return ODD;
    size_t size = (size_t)(c.end - c.at);
    /* a key that holds a secret has seven bytes at least, and leads to two names more */
    size_t renamed = size / 7;
    walk->names.room = 64;
    while (walk->names.room < ((size_t)pairs + 2 * renamed) * 3 / 2)
        walk->names.room *= 2;
    walk->names.name = calloc(walk->names.room, sizeof(Name));
    walk->out.made = malloc(walk->out.size = size + 256);
    walk->made.made = malloc(walk->made.size = 64 + 6 * size + 64 * renamed);
    if (walk->names.name == NULL || walk->out.made == NULL || walk->made.made == NULL)
        return FAILED;
    if (!note_keys(c, &walk->names))
        return ODD;
    return redact_into(walk, c, models);
}

static void
walk_end(Walk *walk)
{
    free(walk->names.name);
    free(walk->out.made);
    free(walk->clean.made);
    free(walk->spare.made);
    free(walk->made.made);
}

static PyObject *
swift_redact(PyObject *module, PyObject *args)
{
    (void)module;
    PyObject *blob;
    int models;
    if (!PyArg_ParseTuple(args, "O!p:redact", &PyBytes_Type, &blob, &models))
        return NULL;
    Walk walk;
    memset(&walk, 0, sizeof walk);
    Cursor c = {(const uint8_t *)PyBytes_AS_STRING(blob), NULL};
    c.end = c.at + PyBytes_GET_SIZE(blob);
    int did;
    if (PyBytes_GET_SIZE(blob) < ALONE_BYTES_MIN)
        did = redact(&walk, c, models);
    else {
        Py_BEGIN_ALLOW_THREADS
        did = redact(&walk, c, models);
        Py_END_ALLOW_THREADS
    }
    PyObject *result = NULL;
    if (did == FAILED)
        PyErr_NoMemory();
    else if (did == ODD)
        result = Py_NewRef(Py_None);
    else if (did == CLEAR)
        result = Py_NewRef(blob);
    else
        result = PyBytes_FromStringAndSize((char *)walk.out.made, (Py_ssize_t)walk.out.length);
    walk_end(&walk);
    return result;
}

static PyObject *
swift_redact_text(PyObject *module, PyObject *text)
{
    (void)module;
    Py_ssize_t length;
    const char *utf8 = PyUnicode_AsUTF8AndSize(text, &length);
    if (utf8 == NULL) {
        PyErr_Clear(); /* a surrogate: for the twin */
        Py_RETURN_NONE;
    }
    Bytes clean = {0}, spare = {0};
    int did = redact_text((const uint8_t *)utf8, (size_t)length, &clean, &spare);
    PyObject *result = did < 0    ? PyErr_NoMemory()
                       : did == 0 ? Py_NewRef(text)
                                  : PyUnicode_DecodeUTF8((char *)clean.made,
                                                         (Py_ssize_t)clean.length, NULL);
    free(clean.made);
    free(spare.made);
    return result;
}

static PyObject *
swift_is_sound(PyObject *module, PyObject *blob)
{
    (void)module;
    if (!PyBytes_Check(blob))
        Py_RETURN_FALSE;
    Cursor c = {(const uint8_t *)PyBytes_AS_STRING(blob), NULL};
    c.end = c.at + PyBytes_GET_SIZE(blob);
    int64_t pairs;
    Py_BEGIN_ALLOW_THREADS
    pairs = count_pairs(c);
    Py_END_ALLOW_THREADS
    return PyBool_FromLong(pairs >= 0);
}

static PyMethodDef methods[] = {
    {"redact", swift_redact, METH_VARARGS, NULL},
    {"redact_text", swift_redact_text, METH_O, NULL},
    {"is_sound", swift_is_sound, METH_O, NULL},
    {NULL, NULL, 0, NULL}};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT, .m_name = "_swift_redact", .m_size = -1, .m_methods = methods};

PyMODINIT_FUNC
PyInit__swift_redact(void)
{
    text_setup();
    for (int head = 0; head < 256; head++)
        is_one[head] = head <= 0x80 || head == 0x90 || head >= 0xE0 || head == 0xC0 ||
                       head == 0xC2 || head == 0xC3;
    if (_PyOS_URandomNonblock(&seed, sizeof seed) < 0)
        return NULL;
    PyObject *module = PyModule_Create(&definition);
    if (module != NULL && PyModule_AddIntConstant(module, "VERSION", VERSION) < 0)
        Py_CLEAR(module);
    return module;
}
