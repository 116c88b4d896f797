/* The hot path of appends, compiled. Optional: everything here has a twin in Python, which is what
 * it is held equal to (tests/wire/test_swift.py) and what runs where no compiler was at hand.
 *
 *     read_append     a frame ──▶ its drafts, or None: it is unusual, let the twin say what is wrong
 *     go_on           a session and an append ──▶ the session after it, or None: the same
 *     chain_rows      drafts  ──▶ numbered, chained rows
 *     encode_results  rows    ──▶ what the request is answered
 *     encode_ok       answer and times ──▶ the reply's frame
 *     skim            a map   ──▶ where its values lie, and whether that is all of it
 *     skim_list       a list  ──▶ where its items lie, or None
 *
 * It refuses nothing: what it does not accept is looked at again in Python. It makes no object for
 * what it only checks, so a payload of a million empty maps costs it no memory.
 */
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <stdint.h>
#include <string.h>

#include "_swift_reply.h"
#include "_swift_utf8.h"

#if defined(__x86_64__) && (defined(__GNUC__) || defined(__clang__))
#define SHA_NI 1
#include <cpuid.h>
#include <immintrin.h>
#endif

enum {
    VERSION = 4, /* of what is agreed with domain/swift.py: another one is not used */
    ID_BYTES = 16,
    ID_TEXT = 26,
    HASH_BYTES = 32,
    DRAFT_FIELDS = 7,
    ROW_FIELDS = 17,
    WRITTEN_FIELDS = 9,
    SESSION_FIELDS = 5,
    APPEND_FIELDS = 4,
    RUN_FIELDS = 12,
    MOVED_MAX = 8, /* runs that one append moves; more are the twin's */
    RUNS_MAX = 32,    /* different runs of one request; more are the twin's */
    NAMES_MAX = 16,   /* kinds that a client may write, actors */
    CODES_MAX = 256,  /* numbers that kinds are stored under */
    LINK_BYTES = 2048 /* of one encoded link: texts are bounded far below it */
};

typedef struct {
    const char *text;
    Py_ssize_t length;
    long number;
} Name;

/* -- what `setup` is told: names and limits live in Python, once --------------------------------- */

static PyTypeObject *draft_type, *written_type, *session_type, *run_type;
static PyObject *open_status;
static PyObject *sha256_call, *numbers[CODES_MAX], *kept_names, *code_names, *empty_tuple;
static Name kinds[NAMES_MAX], actors[NAMES_MAX], codes[CODES_MAX];
static int kinds_known, actors_known;
static long model_token, ends_low, ends_high, tape_entries_max;
static Py_ssize_t frame_bytes_max, payload_bytes_max, events_max, depth_max, id_bytes_max;
static uint64_t time_ms_max, budget_ms_max;
static uint8_t digit_of[256];
static const char DIGITS[] = "0123456789ABCDEFGHJKMNPQRSTVWXYZ";

/* -- SHA-256 ------------------------------------------------------------------------------------- */

#ifdef SHA_NI
static int has_sha;
static const uint32_t K[64] __attribute__((aligned(16))) = {
    0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5,
    0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174,
    0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da,
    0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967,
    0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
    0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070,
    0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
    0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2};

__attribute__((target("sha,sse4.1,ssse3"))) static void
sha_blocks(uint32_t state[8], const uint8_t *data, size_t blocks)
{
    const __m128i flip = _mm_set_epi64x(0x0c0d0e0f08090a0bLL, 0x0405060700010203LL);
    __m128i low = _mm_loadu_si128((const __m128i *)&state[0]);
    __m128i high = _mm_loadu_si128((const __m128i *)&state[4]);
    low = _mm_shuffle_epi32(low, 0xB1);
    high = _mm_shuffle_epi32(high, 0x1B);
    __m128i abef = _mm_alignr_epi8(low, high, 8);
    __m128i cdgh = _mm_blend_epi16(high, low, 0xF0);
    for (; blocks; blocks--, data += 64) {
        __m128i abef_before = abef, cdgh_before = cdgh, w[4];
        for (int i = 0; i < 4; i++)
            w[i] = _mm_shuffle_epi8(_mm_loadu_si128((const __m128i *)(data + 16 * i)), flip);
        for (int i = 0; i < 16; i++) {
            __m128i now;
            if (i < 4) {
                now = w[i];
            } else { /* the next four words of the schedule */
                __m128i mixed = _mm_sha256msg1_epu32(w[i & 3], w[(i + 1) & 3]);
                mixed = _mm_add_epi32(mixed, _mm_alignr_epi8(w[(i + 3) & 3], w[(i + 2) & 3], 4));
                now = w[i & 3] = _mm_sha256msg2_epu32(mixed, w[(i + 3) & 3]);
            }
            __m128i sum = _mm_add_epi32(now, _mm_load_si128((const __m128i *)&K[4 * i]));
            cdgh = _mm_sha256rnds2_epu32(cdgh, abef, sum);
            abef = _mm_sha256rnds2_epu32(abef, cdgh, _mm_shuffle_epi32(sum, 0x0E));
        }
        abef = _mm_add_epi32(abef, abef_before);
        cdgh = _mm_add_epi32(cdgh, cdgh_before);
    }
    low = _mm_shuffle_epi32(abef, 0x1B);
    high = _mm_shuffle_epi32(cdgh, 0xB1);
    _mm_storeu_si128((__m128i *)&state[0], _mm_blend_epi16(low, high, 0xF0));
    _mm_storeu_si128((__m128i *)&state[4], _mm_alignr_epi8(high, low, 8));
}

static void
sha_of(const uint8_t *data, size_t length, uint8_t *digest)
{
    uint32_t state[8] = {0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a,
                         0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};
    uint8_t last[128] = {0};
    size_t whole = length / 64, rest = length % 64, size = rest < 56 ? 64 : 128;
    uint64_t bits = (uint64_t)length * 8;
    sha_blocks(state, data, whole);
    memcpy(last, data + whole * 64, rest);
    last[rest] = 0x80;
    for (int i = 0; i < 8; i++)
        last[size - 1 - i] = (uint8_t)(bits >> (8 * i));
    sha_blocks(state, last, size / 64);
    for (int i = 0; i < 8; i++) {
        digest[4 * i] = (uint8_t)(state[i] >> 24);
        digest[4 * i + 1] = (uint8_t)(state[i] >> 16);
        digest[4 * i + 2] = (uint8_t)(state[i] >> 8);
        digest[4 * i + 3] = (uint8_t)state[i];
    }
}

static int
find_sha(void)
{
    unsigned a, b, c, d;
    if (!__get_cpuid(1, &a, &b, &c, &d) || !(c & (1u << 19)) || !(c & (1u << 9)))
        return 0;
    return __get_cpuid_count(7, 0, &a, &b, &c, &d) && (b & (1u << 29));
}
#endif

/* Where the processor has no instructions for it, Python's library knows better than we would. */
static int
sha256(const uint8_t *data, Py_ssize_t length, uint8_t *digest)
{
#ifdef SHA_NI
    if (has_sha) {
        sha_of(data, (size_t)length, digest);
        return 0;
    }
#endif
    PyObject *state = PyObject_CallFunction(sha256_call, "y#", (const char *)data, length);
    PyObject *made = state ? PyObject_CallMethod(state, "digest", NULL) : NULL;
    Py_XDECREF(state);
    if (made == NULL)
        return -1;
    if (!PyBytes_Check(made) || PyBytes_GET_SIZE(made) != HASH_BYTES) {
        Py_DECREF(made);
        PyErr_SetString(PyExc_ValueError, "a digest has 32 bytes");
        return -1;
    }
    memcpy(digest, PyBytes_AS_STRING(made), HASH_BYTES);
    Py_DECREF(made);
    return 0;
}

/* -- reading MessagePack -------------------------------------------------------------------------- */

typedef struct {
    const uint8_t *at, *end;
} Cursor;

static inline int
number_of(Cursor *c, int width, uint64_t *value)
{
    if (c->end - c->at < width)
        return 0;
    uint64_t read = 0;
    for (int i = 0; i < width; i++)
        read = read << 8 | c->at[i];
    c->at += width;
    *value = read;
    return 1;
}

/* An integer that is not negative, in any of its encodings. */
static int
read_uint(Cursor *c, uint64_t *value)
{
    if (c->at >= c->end)
        return 0;
    uint8_t head = *c->at++;
    if (head < 0x80) {
        *value = head;
        return 1;
    }
    if (head >= 0xCC && head <= 0xCF)
        return number_of(c, 1 << (head - 0xCC), value);
    if (head >= 0xD0 && head <= 0xD3) {
        int width = 1 << (head - 0xD0);
        return number_of(c, width, value) && !(*value >> (8 * width - 1));
    }
    return 0;
}

static int
read_text(Cursor *c, const char **text, Py_ssize_t *length)
{
    uint64_t size;
    if (c->at >= c->end)
        return 0;
    uint8_t head = *c->at++;
    if (head >= 0xA0 && head <= 0xBF)
        size = head & 0x1F;
    else if (head >= 0xD9 && head <= 0xDB) {
        if (!number_of(c, 1 << (head - 0xD9), &size))
            return 0;
    } else
        return 0;
    if ((uint64_t)(c->end - c->at) < size)
        return 0;
    *text = (const char *)c->at;
    *length = (Py_ssize_t)size;
    c->at += size;
    return 1;
}

static int
read_count(Cursor *c, uint8_t fixed, uint8_t wide, uint64_t *count)
{
    if (c->at >= c->end)
        return 0;
    uint8_t head = *c->at++;
    if ((head & 0xF0) == fixed) {
        *count = head & 0x0F;
        return 1;
    }
    if (head == wide)
        return number_of(c, 2, count);
    if (head == wide + 1)
        return number_of(c, 4, count);
    return 0;
}

static inline int
is(const char *text, Py_ssize_t length, const char *name)
{
    return (size_t)length == strlen(name) && !memcmp(text, name, (size_t)length);
}

/* How often a text of five or six bytes begins with `token`, in any case: see domain.payload. */
static int
count_token_texts(const uint8_t *s, Py_ssize_t length)
{
    int seen = 0;
    for (int mark = 0xA5; mark <= 0xA6; mark++) {
        const uint8_t *at = s, *end = s + length, *found;
        while (end - at > 5 && (found = memchr(at, mark, (size_t)(end - at - 5))) != NULL) {
            static const char word[] = "token";
            int i = 0;
            while (i < 5 && (found[1 + i] | (found[1 + i] >= 'A' && found[1 + i] <= 'Z' ? 0x20 : 0))
                   == (uint8_t)word[i])
                i++;
            seen += i == 5;
            at = found + 1;
        }
    }
    return seen;
}

/* One map, checked as `domain.values` describes a value; nothing is made of it. `own_tokens` counts
 * which of the keys `token` and `tokens` it has itself. */
static int
read_payload(Cursor *c, int *own_tokens)
{
    uint64_t left[256], size;
    uint8_t is_map[256];
    int depth = 0;
    uint8_t own = 0;
    do {
        int key = depth && is_map[depth - 1] && !(left[depth - 1] & 1);
        if (depth)
            left[depth - 1]--;
        if (c->at >= c->end)
            return 0;
        uint8_t head = *c->at;
        if (!depth && !((head & 0xF0) == 0x80 || head == 0xDE || head == 0xDF))
            return 0; /* no map */
        if (key || (head >= 0xA0 && head <= 0xBF) || (head >= 0xD9 && head <= 0xDB)) {
            const char *text;
            Py_ssize_t length;
            if (!read_text(c, &text, &length) || !is_utf8((const uint8_t *)text, (size_t)length))
                return 0;
            if (key && depth == 1 && is(text, length, "token"))
                own |= 1;
            else if (key && depth == 1 && is(text, length, "tokens"))
                own |= 2;
        } else if ((head >= 0x80 && head <= 0x9F) || (head >= 0xDC && head <= 0xDF)) {
            int map = head < 0xA0 ? head < 0x90 : head >= 0xDE;
            if (depth == depth_max || !read_count(c, map ? 0x80 : 0x90, map ? 0xDE : 0xDC, &size))
                return 0;
            is_map[depth] = (uint8_t)map;
            left[depth++] = size << map;
        } else if (head < 0x80 || head >= 0xE0 || head == 0xC0 || head == 0xC2 || head == 0xC3) {
            c->at++;
        } else if (head >= 0xC4 && head <= 0xC6) {
            c->at++;
            if (!number_of(c, 1 << (head - 0xC4), &size) || (uint64_t)(c->end - c->at) < size)
                return 0;
            c->at += size;
        } else if (head == 0xCA || head == 0xCB) {
            uint64_t infinite = head == 0xCB ? 0x7FF0000000000000ULL : 0x7F800000ULL;
            c->at++;
            if (!number_of(c, head == 0xCB ? 8 : 4, &size) || (size & infinite) == infinite)
                return 0;
        } else if (head >= 0xCC && head <= 0xD3) {
            c->at++;
            if (!number_of(c, 1 << (head & 3), &size))
                return 0;
        } else
            return 0; /* an extension type, or the byte that MessagePack does not use */
        while (depth && !left[depth - 1])
            depth--;
    } while (depth);
    *own_tokens = (own & 1) + (own >> 1);
    return 1;
}

/* -- reading an append ------------------------------------------------------------------------------ */

static int
parse_id(const char *text, Py_ssize_t length, uint8_t *id)
{
    if (length != ID_TEXT || text[0] > '7')
        return 0;
    uint64_t high = 0, low = 0; /* 130 bits of text, the first two of which are zero */
    uint8_t bad = 0;
    for (int i = 0; i < ID_TEXT; i++) {
        uint8_t digit = digit_of[(uint8_t)text[i]];
        bad |= digit;
        high = high << 5 | low >> 59;
        low = low << 5 | (digit & 31);
    }
    if (bad & 0x80)
        return 0;
    for (int i = 0; i < 8; i++) {
        id[i] = (uint8_t)(high >> (56 - 8 * i));
        id[8 + i] = (uint8_t)(low >> (56 - 8 * i));
    }
    return 1;
}

static void
format_id(const uint8_t *id, uint8_t *text)
{
    uint64_t high = 0, low = 0;
    for (int i = 0; i < 8; i++) {
        high = high << 8 | id[i];
        low = low << 8 | id[8 + i];
    }
    for (int i = ID_TEXT - 1; i >= 0; i--) {
        text[i] = (uint8_t)DIGITS[low & 31];
        low = low >> 5 | high << 59;
        high >>= 5;
    }
}

static long
number_by_name(const Name *names, int known, const char *text, Py_ssize_t length)
{
    for (int i = 0; i < known; i++)
        if (names[i].length == length && !memcmp(names[i].text, text, (size_t)length))
            return names[i].number;
    return -1;
}

/* x\.[a-z0-9_.]{1,62} */
static int
is_own_kind(const char *text, Py_ssize_t length)
{
    if (length < 3 || length > 64 || text[0] != 'x' || text[1] != '.')
        return 0;
    for (Py_ssize_t i = 2; i < length; i++) {
        char c = text[i];
        if (!((c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '_' || c == '.'))
            return 0;
    }
    return 1;
}

typedef struct {
    PyObject *drafts, *run_objects[RUNS_MAX], *session;
    uint8_t run_ids[RUNS_MAX][ID_BYTES];
    const char *session_text;
    Py_ssize_t payload_bytes;
    int runs, ends, odd_tokens;
} Append;

/* 1: read. 0: let the twin look. -1: a Python error. */
static int
read_event(Cursor *c, Append *out, Py_ssize_t index, const uint8_t **seen_id)
{
    enum { EVENT = 1, SESSION = 2, RUN = 4, KIND = 8, ACTOR = 16, TIME = 32, PAYLOAD = 64 };
    uint64_t pairs, ts_ms = 0;
    const char *key, *text, *kind_text = NULL;
    Py_ssize_t key_length, length, kind_length = 0;
    const uint8_t *payload = NULL;
    Py_ssize_t payload_length = 0;
    uint8_t id[ID_BYTES], run_id[ID_BYTES];
    int seen = 0, has_run = 0, own_tokens = 0;
    long kind = -1, actor = -1;
    if (!read_count(c, 0x80, 0xDE, &pairs) || pairs > 7)
        return 0;
    while (pairs--) {
        int field;
        if (!read_text(c, &key, &key_length))
            return 0;
        if (is(key, key_length, "event_id")) {
            field = EVENT;
            if (!read_text(c, &text, &length) || !parse_id(text, length, id))
                return 0;
        } else if (is(key, key_length, "session_id")) {
            field = SESSION;
            uint8_t session_id[ID_BYTES];
            if (!read_text(c, &text, &length) || length != ID_TEXT)
                return 0;
            if (out->session_text == NULL) {
                if (!parse_id(text, length, session_id))
                    return 0;
                out->session_text = text;
            } else if (memcmp(text, out->session_text, ID_TEXT))
                return 0;
        } else if (is(key, key_length, "run_id")) {
            field = RUN;
            if (c->at < c->end && *c->at == 0xC0)
                c->at++;
            else if (read_text(c, &text, &length) && parse_id(text, length, run_id))
                has_run = 1;
            else
                return 0;
        } else if (is(key, key_length, "kind")) {
            field = KIND;
            if (!read_text(c, &kind_text, &kind_length))
                return 0;
            kind = number_by_name(kinds, kinds_known, kind_text, kind_length);
            if (kind < 0 && !is_own_kind(kind_text, kind_length))
                return 0;
        } else if (is(key, key_length, "actor")) {
            field = ACTOR;
            if (!read_text(c, &text, &length))
                return 0;
            actor = number_by_name(actors, actors_known, text, length);
            if (actor < 0)
                return 0;
        } else if (is(key, key_length, "ts_ms")) {
            field = TIME;
            if (!read_uint(c, &ts_ms) || ts_ms > time_ms_max)
                return 0;
        } else if (is(key, key_length, "payload")) {
            field = PAYLOAD;
            payload = c->at;
            Cursor within = {payload, c->end - payload > payload_bytes_max ? payload + payload_bytes_max
                                                                           : c->end};
            if (!read_payload(&within, &own_tokens))
                return 0;
            c->at = within.at;
            payload_length = c->at - payload;
        } else
            return 0;
        if (seen & field)
            return 0;
        seen |= field;
    }
    if ((seen | RUN) != 127)
        return 0;
    int token_texts = count_token_texts(payload, payload_length);
    if (token_texts && !(kind == model_token && token_texts == own_tokens))
        out->odd_tokens = 1;
    if (kind >= ends_low && kind <= ends_high)
        out->ends = 1;
    out->payload_bytes += payload_length;

    PyObject *run = Py_None;
    if (has_run) {
        int i = out->runs - 1;
        while (i >= 0 && memcmp(out->run_ids[i], run_id, ID_BYTES))
            i--;
        if (i < 0) {
            if (out->runs == RUNS_MAX)
                return 0;
            i = out->runs;
            memcpy(out->run_ids[i], run_id, ID_BYTES);
            out->run_objects[i] = PyBytes_FromStringAndSize((char *)run_id, ID_BYTES);
            if (out->run_objects[i] == NULL)
                return -1;
            out->runs++;
        }
        run = out->run_objects[i];
    }
    PyObject *draft = draft_type->tp_alloc(draft_type, DRAFT_FIELDS);
    if (draft == NULL)
        return -1;
    PyList_SET_ITEM(out->drafts, index, draft);
    PyObject *id_object = PyBytes_FromStringAndSize((char *)id, ID_BYTES);
    PyTuple_SET_ITEM(draft, 0, id_object);
    PyTuple_SET_ITEM(draft, 1, Py_NewRef(run));
    PyObject *kind_object = kind < 0 ? PyUnicode_DecodeASCII(kind_text, kind_length, NULL)
                                     : Py_NewRef(numbers[kind]);
    PyTuple_SET_ITEM(draft, 2, kind_object);
    PyTuple_SET_ITEM(draft, 3, Py_NewRef(numbers[actor]));
    PyObject *time_object = PyLong_FromUnsignedLongLong(ts_ms);
    PyTuple_SET_ITEM(draft, 4, time_object);
    PyObject *payload_object = PyBytes_FromStringAndSize((const char *)payload, payload_length);
    PyTuple_SET_ITEM(draft, 5, payload_object);
    PyTuple_SET_ITEM(draft, 6, Py_NewRef(Py_False));
    if (id_object == NULL || kind_object == NULL || time_object == NULL || payload_object == NULL)
        return -1;
    PyObject_GC_UnTrack(draft); /* see `go_on` */
    *seen_id = (const uint8_t *)PyBytes_AS_STRING(id_object);
    return 1;
}

static int
read_events(Cursor *c, Append *out)
{
    uint64_t count;
    if (!read_count(c, 0x90, 0xDC, &count) || count < 1 || count > (uint64_t)events_max)
        return 0;
    out->drafts = PyList_New((Py_ssize_t)count);
    if (out->drafts == NULL)
        return -1;
    uint16_t places[4096]; /* where an id was seen, plus one: four times the events a request has */
    const uint8_t *ids[1024];
    if (count > 1)
        memset(places, 0, sizeof places);
    for (uint64_t index = 0; index < count; index++) {
        int read = read_event(c, out, (Py_ssize_t)index, &ids[index]);
        if (read != 1)
            return read;
        if (count == 1)
            break;
        uint64_t hash;
        memcpy(&hash, ids[index] + 8, 8);
        hash = (hash * 0x9E3779B97F4A7C15ULL) >> 52;
        while (places[hash]) {
            if (!memcmp(ids[places[hash] - 1], ids[index], ID_BYTES))
                return 0; /* an id twice */
            hash = (hash + 1) & 4095;
        }
        places[hash] = (uint16_t)(index + 1);
    }
    return 1;
}

static int
read_frame(Cursor *c, Append *out, PyObject **request_id, PyObject **budget, PyObject **expected)
{
    enum { VERSION = 1, ID = 2, OP = 4, BODY = 8, BUDGET = 16, EVENTS = 1, EXPECTED = 2 };
    uint64_t pairs, inner, value;
    const char *key, *text;
    Py_ssize_t key_length, length;
    int seen = 0, seen_inner = 0;
    if (!read_count(c, 0x80, 0xDE, &pairs) || pairs > 5)
        return 0;
    while (pairs--) {
        int field;
        if (!read_text(c, &key, &key_length))
            return 0;
        if (is(key, key_length, "v")) {
            field = VERSION;
            if (c->at >= c->end || *c->at++ != 1)
                return 0;
        } else if (is(key, key_length, "id")) {
            field = ID;
            if (seen & field)
                return 0;
            Cursor before = *c;
            if (read_uint(c, &value)) {
                *request_id = PyLong_FromUnsignedLongLong(value);
            } else {
                *c = before;
                if (!read_text(c, &text, &length) || length < 1 || length > id_bytes_max ||
                    !is_utf8((const uint8_t *)text, (size_t)length))
                    return 0;
                *request_id = PyUnicode_DecodeUTF8(text, length, NULL);
            }
            if (*request_id == NULL)
                return -1;
        } else if (is(key, key_length, "op")) {
            field = OP;
            if (!read_text(c, &text, &length) || !is(text, length, "journal.append"))
                return 0;
        } else if (is(key, key_length, "budget_ms")) {
            field = BUDGET;
            if (seen & field || !read_uint(c, &value) || value > budget_ms_max)
                return 0;
            Py_DECREF(*budget);
            if ((*budget = PyLong_FromUnsignedLongLong(value)) == NULL)
                return -1;
        } else if (is(key, key_length, "body")) {
            field = BODY;
            if (seen & field || !read_count(c, 0x80, 0xDE, &inner) || inner > 2)
                return 0;
            while (inner--) {
                int part, read;
                if (!read_text(c, &key, &key_length))
                    return 0;
                if (is(key, key_length, "events")) {
                    part = EVENTS;
                    if (seen_inner & part)
                        return 0;
                    if ((read = read_events(c, out)) != 1)
                        return read;
                } else if (is(key, key_length, "expected_session_seq")) {
                    part = EXPECTED;
                    if (seen_inner & part)
                        return 0;
                    if (c->at < c->end && *c->at == 0xC0)
                        c->at++;
                    else {
                        if (!read_uint(c, &value) || value > INT64_MAX)
                            return 0;
                        Py_DECREF(*expected);
                        if ((*expected = PyLong_FromUnsignedLongLong(value)) == NULL)
                            return -1;
                    }
                } else
                    return 0;
                seen_inner |= part;
            }
        } else
            return 0;
        if (seen & field)
            return 0;
        seen |= field;
    }
    return (seen | BUDGET) == 31 && (seen_inner & EVENTS) && c->at == c->end;
}

/* All payloads one after the other: what is looked through for secrets. */
static PyObject *
joined(PyObject *drafts, Py_ssize_t size)
{
    Py_ssize_t count = PyList_GET_SIZE(drafts);
    if (count == 1)
        return Py_NewRef(PyTuple_GET_ITEM(PyList_GET_ITEM(drafts, 0), 5));
    PyObject *all = PyBytes_FromStringAndSize(NULL, size);
    if (all == NULL)
        return NULL;
    char *to = PyBytes_AS_STRING(all);
    for (Py_ssize_t i = 0; i < count; i++) {
        PyObject *payload = PyTuple_GET_ITEM(PyList_GET_ITEM(drafts, i), 5);
        memcpy(to, PyBytes_AS_STRING(payload), (size_t)PyBytes_GET_SIZE(payload));
        to += PyBytes_GET_SIZE(payload);
    }
    return all;
}

static PyObject *
swift_read_append(PyObject *module, PyObject *frame)
{
    (void)module;
    if (!PyBytes_Check(frame) || draft_type == NULL || PyBytes_GET_SIZE(frame) > frame_bytes_max)
        Py_RETURN_NONE;
    Cursor c = {(const uint8_t *)PyBytes_AS_STRING(frame), NULL};
    c.end = c.at + PyBytes_GET_SIZE(frame);
    Append out;
    memset(&out, 0, offsetof(Append, run_ids));
    out.session_text = NULL;
    out.payload_bytes = 0;
    out.runs = out.ends = out.odd_tokens = 0;
    PyObject *request_id = NULL, *budget = Py_NewRef(Py_None), *expected = Py_NewRef(Py_None);
    PyObject *result = NULL, *runs = NULL, *payloads = NULL;
    int read = read_frame(&c, &out, &request_id, &budget, &expected);
    if (read == 1) {
        out.session = PyUnicode_DecodeASCII(out.session_text, ID_TEXT, NULL);
        runs = out.runs ? PyTuple_New(out.runs) : Py_NewRef(empty_tuple);
        for (int i = 0; runs != NULL && i < out.runs; i++)
            PyTuple_SET_ITEM(runs, i, Py_NewRef(out.run_objects[i]));
        payloads = joined(out.drafts, out.payload_bytes);
        if (out.session != NULL && runs != NULL && payloads != NULL)
            result = written_type->tp_alloc(written_type, WRITTEN_FIELDS);
        if (result != NULL) {
            PyObject *fields[WRITTEN_FIELDS] = {
                request_id, budget, out.session, out.drafts, runs, out.ends ? Py_True : Py_False,
                expected, payloads, out.odd_tokens ? Py_True : Py_False};
            for (int i = 0; i < WRITTEN_FIELDS; i++)
                PyTuple_SET_ITEM(result, i, Py_NewRef(fields[i]));
        }
    } else if (read == 0)
        result = Py_NewRef(Py_None);
    for (int i = 0; i < out.runs; i++)
        Py_DECREF(out.run_objects[i]);
    Py_XDECREF(out.drafts);
    Py_XDECREF(out.session);
    Py_XDECREF(request_id);
    Py_DECREF(budget);
    Py_DECREF(expected);
    Py_XDECREF(runs);
    Py_XDECREF(payloads);
    return result;
}

/* -- writing MessagePack ------------------------------------------------------------------------------ */

static uint8_t *
put_id(uint8_t *to, PyObject *id) /* checked: 16 bytes, or None */
{
    if (id == Py_None) {
        *to++ = 0xC0;
        return to;
    }
    *to++ = 0xC4;
    *to++ = ID_BYTES;
    return put_raw(to, PyBytes_AS_STRING(id), ID_BYTES);
}

static int
is_id(PyObject *id)
{
    if (id == Py_None || (PyBytes_Check(id) && PyBytes_GET_SIZE(id) == ID_BYTES))
        return 1;
    PyErr_SetString(PyExc_ValueError, "an id has 16 bytes");
    return 0;
}

/* A text that is bounded elsewhere, encoded behind `to`; NULL: it is none. */
/* -- deciding ---------------------------------------------------------------------------------------- */

typedef struct {
    PyObject *id, *run; /* of the append, and as the session has it: both borrowed */
    long entries, entries_before;
    int open, open_before;
} Moved;

/* The tapes of the runs that the drafts name, moved on. 0: one of them is unusual. */
static int
move_tapes(PyObject *drafts, PyObject *runs, Moved *moved, int *count)
{
    Moved *last = NULL;
    for (Py_ssize_t i = 0; i < PyList_GET_SIZE(drafts); i++) {
        PyObject *draft = PyList_GET_ITEM(drafts, i);
        if (!PyTuple_Check(draft) || PyTuple_GET_SIZE(draft) != DRAFT_FIELDS)
            return 0;
        PyObject *id = PyTuple_GET_ITEM(draft, 1), *kind = PyTuple_GET_ITEM(draft, 2);
        if (id == Py_None)
            continue;
        if (last == NULL || last->id != id) {
            PyObject *run = PyDict_GetItemWithError(runs, id);
            if (run == NULL || !Py_IS_TYPE(run, run_type) || !PyBytes_CheckExact(id) || !is_id(id))
                return 0;
            int place = 0;
            while (place < *count && memcmp(PyBytes_AS_STRING(moved[place].id),
                                            PyBytes_AS_STRING(id), ID_BYTES))
                place++;
            last = &moved[place];
            if (place == *count) {
                if (place == MOVED_MAX)
                    return 0;
                last->run = run;
                last->entries_before = last->entries = PyLong_AsLong(PyTuple_GET_ITEM(run, 3));
                last->open_before = last->open = PyObject_IsTrue(PyTuple_GET_ITEM(run, 4));
                if (last->entries < 0 || last->open < 0)
                    return 0;
                ++*count;
            }
            last->id = id;
        }
        int token = PyLong_Check(kind) && PyLong_AsLong(kind) == model_token;
        if (token && last->open)
            continue;
        if (last->entries >= tape_entries_max)
            return 0;
        last->entries++;
        last->open = token;
    }
    return 1;
}

static PyObject *
moved_run(const Moved *moved)
{
    PyObject *run = run_type->tp_alloc(run_type, RUN_FIELDS);
    PyObject *entries = PyLong_FromLong(moved->entries);
    if (run == NULL || entries == NULL) {
        Py_XDECREF(run);
        Py_XDECREF(entries);
        return NULL;
    }
    for (int i = 0; i < RUN_FIELDS; i++)
        if (i != 3 && i != 4)
            PyTuple_SET_ITEM(run, i, Py_NewRef(PyTuple_GET_ITEM(moved->run, i)));
    PyTuple_SET_ITEM(run, 3, entries);
    PyTuple_SET_ITEM(run, 4, Py_NewRef(moved->open ? Py_True : Py_False));
    PyObject_GC_UnTrack(run);
    return run;
}

/* (id, run, False) of each that moved, in their order; `runs` then is a copy that holds them. */
static PyObject *
moved_runs(const Moved *moved, int count, PyObject **runs)
{
    int places[MOVED_MAX], changed = 0;
    for (int i = 0; i < count; i++)
        if (moved[i].entries != moved[i].entries_before || moved[i].open != moved[i].open_before)
            places[changed++] = i;
    PyObject *told = changed ? PyTuple_New(changed) : Py_NewRef(empty_tuple);
    if (told == NULL || !changed)
        return told;
    PyObject *after = PyDict_Copy(*runs);
    for (int i = 0; i < changed && after != NULL; i++) {
        const Moved *one = &moved[places[i]];
        PyObject *run = moved_run(one);
        PyObject *change = run ? PyTuple_Pack(3, one->id, run, Py_False) : NULL;
        if (change == NULL || PyDict_SetItem(after, one->id, run) < 0)
            Py_CLEAR(after);
        if (change != NULL) {
            PyObject_GC_UnTrack(change);
            PyTuple_SET_ITEM(told, i, change);
        }
        Py_XDECREF(run);
    }
    if (after == NULL) {
        Py_DECREF(told);
        return NULL;
    }
    PyObject_GC_UnTrack(told);
    PyObject_GC_UnTrack(after);
    Py_SETREF(*runs, after);
    return told;
}

/* What is made here and lives on is taken out of the collector's list at once, as it takes out tuples of
 * plain values itself once it meets them: it holds values that nobody changes, so it is in no cycle, and to leave
 * the list when it is freed it would have to fetch its neighbours there, who are cold by then. */
static PyObject *
swift_go_on(PyObject *module, PyObject *const *args, Py_ssize_t count)
{
    (void)module;
    if (count != 2) {
        PyErr_SetString(PyExc_TypeError, "go_on(session, append)");
        return NULL;
    }
    PyObject *before = args[0], *append = args[1];
    if (session_type == NULL || !Py_IS_TYPE(before, session_type) || !PyTuple_Check(append) ||
        PyTuple_GET_SIZE(append) != APPEND_FIELDS || PyTuple_GET_SIZE(before) != SESSION_FIELDS)
        Py_RETURN_NONE;
    PyObject *drafts = PyTuple_GET_ITEM(append, 0), *run_ids = PyTuple_GET_ITEM(append, 2);
    PyObject *about = PyTuple_GET_ITEM(before, 3), *runs = PyTuple_GET_ITEM(before, 2);
    if (PyTuple_GET_ITEM(before, 1) != open_status || about == Py_None ||
        PyTuple_GET_ITEM(append, 1) != Py_None || PyTuple_GET_ITEM(append, 3) != Py_False ||
        !PyList_CheckExact(drafts) || !PyTuple_CheckExact(run_ids))
        Py_RETURN_NONE;
    int named = PyTuple_GET_SIZE(run_ids) > 0, moved_count = 0;
    Moved moved[MOVED_MAX];
    if (named && (!PyDict_CheckExact(runs) || !move_tapes(drafts, runs, moved, &moved_count))) {
        if (PyErr_Occurred())
            return NULL;
        Py_RETURN_NONE;
    }
    long long last_seq = PyLong_AsLongLong(PyTuple_GET_ITEM(before, 0));
    if (last_seq < 0)
        return PyErr_Occurred() ? NULL : Py_NewRef(Py_None);
    Py_INCREF(runs);
    PyObject *told = named ? moved_runs(moved, moved_count, &runs) : Py_NewRef(empty_tuple);
    PyObject *seq = PyLong_FromLongLong(last_seq + PyList_GET_SIZE(drafts));
    PyObject *after = told && seq ? session_type->tp_alloc(session_type, SESSION_FIELDS) : NULL;
    PyObject *made = after ? PyTuple_New(2) : NULL;
    if (made == NULL) {
        Py_DECREF(runs);
        Py_XDECREF(told);
        Py_XDECREF(seq);
        Py_XDECREF(after);
        return NULL;
    }
    PyTuple_SET_ITEM(after, 0, seq);
    PyTuple_SET_ITEM(after, 1, Py_NewRef(open_status));
    PyTuple_SET_ITEM(after, 2, runs);
    PyTuple_SET_ITEM(after, 3, Py_NewRef(about));
    PyTuple_SET_ITEM(after, 4, Py_NewRef(PyTuple_GET_ITEM(before, 4)));
    PyObject_GC_UnTrack(after);
    PyTuple_SET_ITEM(made, 0, after);
    PyTuple_SET_ITEM(made, 1, told);
    return made;
}

/* -- chaining ------------------------------------------------------------------------------------------- */

typedef struct {
    PyObject *stream, *stream_id, *principal, *traceparent, *recorded;
    uint8_t stream_part[128], principal_part[256], trace_part[LINK_BYTES / 2];
    Py_ssize_t stream_length, principal_length, trace_length;
    uint64_t recorded_ms;
} Stretch;

static int
chain_one(Stretch *s, PyObject *draft, PyObject *session, int own_session, uint64_t seq,
          uint64_t number, uint64_t last, uint8_t *hash, PyObject *rows)
{
    if (!PyTuple_Check(draft) || PyTuple_GET_SIZE(draft) != DRAFT_FIELDS) {
        PyErr_SetString(PyExc_TypeError, "not a draft");
        return -1;
    }
    PyObject *event_id = PyTuple_GET_ITEM(draft, 0), *run_id = PyTuple_GET_ITEM(draft, 1);
    PyObject *kind = PyTuple_GET_ITEM(draft, 2), *actor = PyTuple_GET_ITEM(draft, 3);
    PyObject *ts = PyTuple_GET_ITEM(draft, 4), *payload = PyTuple_GET_ITEM(draft, 5);
    int redacted = PyObject_IsTrue(PyTuple_GET_ITEM(draft, 6));
    if (!PyBytes_Check(payload) || event_id == Py_None || redacted < 0) {
        PyErr_SetString(PyExc_TypeError, "not a draft");
        return -1;
    }
    if (!is_id(event_id) || !is_id(run_id) || !is_id(session))
        return -1;
    uint64_t ts_ms = PyLong_AsUnsignedLongLong(ts);
    long actor_number = PyLong_AsLong(actor);
    if (PyErr_Occurred())
        return -1;
    const Name *actor_name = NULL;
    for (int i = 0; i < actors_known; i++)
        if (actors[i].number == actor_number)
            actor_name = &actors[i];
    if (actor_name == NULL) {
        PyErr_SetString(PyExc_ValueError, "no such actor");
        return -1;
    }
    uint8_t link[HASH_BYTES + LINK_BYTES + 512], *to = link, *end = link + sizeof link;
    to = put_raw(to, hash, HASH_BYTES);
    *to++ = 0x9F;
    to = put_uint(to, seq);
    to = put_id(to, event_id);
    to = put_raw(to, s->stream_part, s->stream_length);
    to = put_uint(to, number);
    to = put_id(to, session);
    to = put_id(to, run_id);
    if (PyLong_Check(kind)) {
        long code = PyLong_AsLong(kind);
        if (code < 0 || code >= CODES_MAX || codes[code].text == NULL) {
            PyErr_Clear();
            PyObject *name = PyDict_GetItemWithError(code_names, kind); /* a kind that came later */
            if (name == NULL || (to = put_text(to, end - 1024, name)) == NULL) {
                if (!PyErr_Occurred())
                    PyErr_SetString(PyExc_ValueError, "no such kind");
                return -1;
            }
        } else
            to = put_raw(put_text_head(to, codes[code].length), codes[code].text,
                         codes[code].length);
    } else if ((to = put_text(to, end - 1024, kind)) == NULL)
        return -1;
    to = put_raw(put_text_head(to, actor_name->length), actor_name->text, actor_name->length);
    to = put_raw(to, s->principal_part, s->principal_length);
    to = put_uint(to, ts_ms);
    to = put_uint(to, s->recorded_ms);
    *to++ = redacted ? 0xC3 : 0xC2;
    if (end - to < s->trace_length + HASH_BYTES + 2) {
        PyErr_SetString(PyExc_ValueError, "a link is too long");
        return -1;
    }
    to = put_raw(to, s->trace_part, s->trace_length);
    *to++ = 0xC4;
    *to++ = HASH_BYTES;
    if (sha256((const uint8_t *)PyBytes_AS_STRING(payload), PyBytes_GET_SIZE(payload), to) < 0)
        return -1;
    to += HASH_BYTES;
    if (sha256(link, to - link, hash) < 0)
        return -1;

    PyObject *row = PyTuple_New(ROW_FIELDS);
    if (row == NULL)
        return -1;
    PyObject *made[] = {PyLong_FromUnsignedLongLong(seq), PyLong_FromUnsignedLongLong(number),
                        PyLong_FromUnsignedLongLong(last ? seq - last : 0),
                        PyBytes_FromStringAndSize((char *)hash, HASH_BYTES)};
    PyTuple_SET_ITEM(row, 0, made[0]);
    PyTuple_SET_ITEM(row, 1, Py_NewRef(event_id));
    PyTuple_SET_ITEM(row, 2, Py_NewRef(s->stream));
    PyTuple_SET_ITEM(row, 3, made[1]);
    PyTuple_SET_ITEM(row, 4, made[2]);
    PyTuple_SET_ITEM(row, 5, Py_NewRef(own_session ? Py_None : session));
    PyTuple_SET_ITEM(row, 6, Py_NewRef(run_id));
    PyTuple_SET_ITEM(row, 7, Py_NewRef(kind));
    PyTuple_SET_ITEM(row, 8, Py_NewRef(actor));
    PyTuple_SET_ITEM(row, 9, Py_NewRef(s->principal));
    PyTuple_SET_ITEM(row, 10, Py_NewRef(ts));
    PyTuple_SET_ITEM(row, 11, Py_NewRef(s->recorded));
    PyTuple_SET_ITEM(row, 12, Py_NewRef(numbers[redacted]));
    PyTuple_SET_ITEM(row, 13, Py_NewRef(s->traceparent));
    PyTuple_SET_ITEM(row, 14, Py_NewRef(payload));
    PyTuple_SET_ITEM(row, 15, Py_NewRef(Py_None));
    PyTuple_SET_ITEM(row, 16, made[3]);
    PyObject_GC_UnTrack(row); /* see `go_on` */
    int failed = !made[0] || !made[1] || !made[2] || !made[3] || PyList_Append(rows, row) < 0;
    Py_DECREF(row);
    return failed ? -1 : 0;
}

static int
chain_stretch(PyObject *stretch, PyObject *recorded, uint64_t recorded_ms, uint64_t *seq,
              uint8_t *hash, PyObject *rows)
{
    PyObject *drafts, *stream_name, *sessions, *principal_name;
    unsigned long long number, last;
    Stretch s = {.recorded = recorded, .recorded_ms = recorded_ms};
    if (!PyArg_ParseTuple(stretch, "OOUO!KKOOUO:chain_rows", &drafts, &s.stream, &stream_name,
                          &PyBytes_Type, &s.stream_id, &number, &last, &sessions, &s.principal,
                          &principal_name, &s.traceparent))
        return -1;
    if (!is_id(s.stream_id))
        return -1;
    uint8_t *to = put_text(s.stream_part, s.stream_part + 96, stream_name);
    if (to == NULL)
        return -1;
    s.stream_length = put_id(to, s.stream_id) - s.stream_part;
    to = put_text(s.principal_part, s.principal_part + sizeof s.principal_part, principal_name);
    if (to == NULL)
        return -1;
    s.principal_length = to - s.principal_part;
    if (s.traceparent == Py_None) {
        s.trace_part[0] = 0xC0;
        s.trace_length = 1;
    } else {
        to = put_text(s.trace_part, s.trace_part + sizeof s.trace_part, s.traceparent);
        if (to == NULL)
            return -1;
        s.trace_length = to - s.trace_part;
    }
    drafts = PySequence_Fast(drafts, "drafts are a sequence");
    if (drafts == NULL)
        return -1;
    int failed = 0;
    for (Py_ssize_t i = 0; i < PySequence_Fast_GET_SIZE(drafts) && !failed; i++) {
        PyObject *session = s.stream_id, *held = NULL;
        if (sessions != Py_None) {
            session = held = PySequence_GetItem(sessions, i);
            if (held == NULL) {
                failed = 1;
                break;
            }
        }
        ++*seq;
        failed = chain_one(&s, PySequence_Fast_GET_ITEM(drafts, i), session, held == NULL, *seq,
                           number++, last, hash, rows) < 0;
        last = *seq;
        Py_XDECREF(held);
    }
    Py_DECREF(drafts);
    return failed ? -1 : 0;
}

static PyObject *
swift_chain_rows(PyObject *module, PyObject *args)
{
    (void)module;
    PyObject *stretches, *link, *recorded;
    unsigned long long first;
    if (!PyArg_ParseTuple(args, "O!KO!O!:chain_rows", &PyList_Type, &stretches, &first,
                          &PyBytes_Type, &link, &PyLong_Type, &recorded))
        return NULL;
    uint64_t seq = first, recorded_ms = PyLong_AsUnsignedLongLong(recorded);
    if (PyErr_Occurred())
        return NULL;
    if (PyBytes_GET_SIZE(link) != HASH_BYTES) {
        PyErr_SetString(PyExc_ValueError, "a hash has 32 bytes");
        return NULL;
    }
    uint8_t hash[HASH_BYTES];
    memcpy(hash, PyBytes_AS_STRING(link), HASH_BYTES);
    PyObject *rows = PyList_New(0);
    if (rows == NULL)
        return NULL;
    for (Py_ssize_t i = 0; i < PyList_GET_SIZE(stretches); i++)
        if (chain_stretch(PyList_GET_ITEM(stretches, i), recorded, recorded_ms, &seq, hash, rows)
            < 0) {
            Py_DECREF(rows);
            return NULL;
        }
    return Py_BuildValue("(Ny#)", rows, (char *)hash, (Py_ssize_t)HASH_BYTES);
}

/* -- answering -------------------------------------------------------------------------------------------- */

static PyObject *
swift_encode_results(PyObject *module, PyObject *args)
{
    (void)module;
    static const char SEQ[] = "\xa3seq", NUMBER[] = "\xabsession_seq", HASH[] = "\xa4hash\xc4\x20";
    static const char FLAGS[] = "\xa9" "duplicate\xc2\xa8redacted", ID[] = "\x86\xa8" "event_id\xba";
    enum { RESULT_BYTES_MAX = 160 };
    PyObject *rows;
    Py_ssize_t start, stop;
    if (!PyArg_ParseTuple(args, "O!nn:encode_results", &PyList_Type, &rows, &start, &stop))
        return NULL;
    if (start < 0 || stop < start || stop > PyList_GET_SIZE(rows) || stop - start > 0xFFFF) {
        PyErr_SetString(PyExc_IndexError, "there are no such rows");
        return NULL;
    }
    PyObject *made = PyBytes_FromStringAndSize(NULL, 3 + (stop - start) * RESULT_BYTES_MAX);
    if (made == NULL)
        return NULL;
    uint8_t *began = (uint8_t *)PyBytes_AS_STRING(made), *to = began;
    if (stop - start < 16)
        *to++ = (uint8_t)(0x90 | (stop - start));
    else
        to = put_wide(to, 0xDC, (uint64_t)(stop - start), 2);
    for (Py_ssize_t i = start; i < stop; i++) {
        PyObject *row = PyList_GET_ITEM(rows, i);
        if (!PyTuple_Check(row) || PyTuple_GET_SIZE(row) != ROW_FIELDS ||
            !PyBytes_Check(PyTuple_GET_ITEM(row, 1)) || !is_id(PyTuple_GET_ITEM(row, 1)) ||
            !PyBytes_Check(PyTuple_GET_ITEM(row, 16)) ||
            PyBytes_GET_SIZE(PyTuple_GET_ITEM(row, 16)) != HASH_BYTES) {
            if (!PyErr_Occurred())
                PyErr_SetString(PyExc_TypeError, "not a row");
            Py_DECREF(made);
            return NULL;
        }
        uint64_t seq = PyLong_AsUnsignedLongLong(PyTuple_GET_ITEM(row, 0));
        uint64_t number = PyLong_AsUnsignedLongLong(PyTuple_GET_ITEM(row, 3));
        long redacted = PyLong_AsLong(PyTuple_GET_ITEM(row, 12));
        if (PyErr_Occurred()) {
            Py_DECREF(made);
            return NULL;
        }
        to = put_raw(to, ID, sizeof ID - 1);
        format_id((const uint8_t *)PyBytes_AS_STRING(PyTuple_GET_ITEM(row, 1)), to);
        to = put_raw(to + ID_TEXT, SEQ, sizeof SEQ - 1);
        to = put_uint(to, seq);
        to = put_raw(to, NUMBER, sizeof NUMBER - 1);
        to = put_uint(to, number);
        to = put_raw(to, HASH, sizeof HASH - 1);
        to = put_raw(to, PyBytes_AS_STRING(PyTuple_GET_ITEM(row, 16)), HASH_BYTES);
        to = put_raw(to, FLAGS, sizeof FLAGS - 1);
        *to++ = redacted ? 0xC3 : 0xC2;
    }
    _PyBytes_Resize(&made, to - began);
    return made;
}

static PyObject *
swift_encode_ok(PyObject *module, PyObject *args)
{
    (void)module;
    PyObject *request_id, *results;
    double queued_ms, commit_ms, total_ms;
    int within;
    if (!PyArg_ParseTuple(args, "OSdddp:encode_ok", &request_id, &results, &queued_ms, &commit_ms,
                          &total_ms, &within))
        return NULL;
    return ok_of_append(request_id, results, queued_ms, commit_ms, total_ms, within);
}

/* -- skimming ------------------------------------------------------------------------------------------------ */

enum {
    SKIM_KEYS_MAX = 64,
    SKIM_KEY_BYTES_MAX = 1024, /* of a key that is shown whole: no name is so long */
    SKIM_DEPTH_MAX = 512,      /* msgspec goes twice as deep, and no value may */
    SKIM_BYTES_MIN = 16 * 1024 /* below it, giving the interpreter's lock back costs more */
};

enum { SKIMMED = 0, SKIM_BROKEN = 1, SKIM_TOO_DEEP = 2 };

/* Where a value lies, and its key; NULL: that is no text, and lies from `key_begins` on. */
typedef struct {
    const char *key;
    Py_ssize_t key_length, key_begins, begins, ends;
} Span;

/* The bytes of a value whose first one tells them; 0: it does not, or is none of these. */
static uint8_t size_by_head[256], is_one[256];

static void
know_sizes(void)
{
    for (int head = 0; head < 256; head++)
        size_by_head[head] = head < 0x80 || head >= 0xE0 || head == 0x80 || head == 0x90;
    for (int head = 0xA0; head <= 0xBF; head++)
        size_by_head[head] = (uint8_t)(1 + (head & 0x1F));
    size_by_head[0xC0] = size_by_head[0xC2] = size_by_head[0xC3] = 1;
    size_by_head[0xCA] = 5;
    size_by_head[0xCB] = 9;
    for (int head = 0xCC; head <= 0xD3; head++)
        size_by_head[head] = (uint8_t)(1 + (1 << (head & 3)));
    for (int head = 0; head < 256; head++)
        is_one[head] = size_by_head[head] == 1;
}

/* Behind the value that begins here, whatever it is; its texts are not looked at. Not SKIMMED: it
 * does not end within the frame, is none, or nests too deep. */
static int
skip_value(Cursor *c)
{
    uint64_t left[SKIM_DEPTH_MAX], size, more = 1;
    const uint8_t *at = c->at, *end = c->end;
    int depth = 0;
    for (;;) {
        while (more && at < end) {
            /* eight at once where each is one byte: none of these loads waits for another */
            while (more >= 8 && end - at >= 8 &&
                   is_one[at[0]] & is_one[at[1]] & is_one[at[2]] & is_one[at[3]] & is_one[at[4]] &
                       is_one[at[5]] & is_one[at[6]] & is_one[at[7]]) {
                at += 8;
                more -= 8;
            }
            if (!more || at == end)
                break;
            int step = size_by_head[*at];
            if (!step)
                break;
            if (end - at < step)
                return SKIM_BROKEN;
            at += step;
            more--;
        }
        if (!more) {
            if (!depth)
                break;
            more = left[--depth];
            continue;
        }
        if (at >= end)
            return SKIM_BROKEN;
        uint8_t head = *at;
        c->at = at;
        more--;
        if ((head >= 0x80 && head <= 0x9F) || (head >= 0xDC && head <= 0xDF)) {
            int map = head < 0xA0 ? head < 0x90 : head >= 0xDE;
            if (depth == SKIM_DEPTH_MAX)
                return SKIM_TOO_DEEP;
            if (!read_count(c, map ? 0x80 : 0x90, map ? 0xDE : 0xDC, &size))
                return SKIM_BROKEN;
            left[depth++] = more;
            more = size << map;
        } else {
            int width = head >= 0xD9 && head <= 0xDB   ? 1 << (head - 0xD9) /* text */
                        : head >= 0xC4 && head <= 0xC6 ? 1 << (head - 0xC4) /* bytes */
                        : head >= 0xC7 && head <= 0xC9 ? 1 << (head - 0xC7) /* an extension type */
                                                       : 0;
            c->at++;
            if (head >= 0xD4 && head <= 0xD8)
                size = 1 + (1u << (head - 0xD4));
            else if (!width || !number_of(c, width, &size))
                return SKIM_BROKEN; /* or the byte that MessagePack does not use */
            else if (head >= 0xC7 && head <= 0xC9)
                size++;
            if ((uint64_t)(end - c->at) < size)
                return SKIM_BROKEN;
            c->at += size;
        }
        at = c->at;
    }
    c->at = at;
    return SKIMMED;
}

static int
is_container(const Cursor *c)
{
    return c->at < c->end && ((*c->at >= 0x80 && *c->at <= 0x9F) || (*c->at >= 0xDC && *c->at <= 0xDF));
}

/* As many values as were found before something was wrong go to `found`. */
static int
skim(Cursor *c, Span *spans, int *found)
{
    const uint8_t *began = c->at;
    uint64_t count;
    *found = 0;
    if (!read_count(c, 0x80, 0xDE, &count) || count > SKIM_KEYS_MAX)
        return SKIM_BROKEN;
    for (uint64_t i = 0; i < count; i++) {
        Cursor key = *c;
        spans[i].key_begins = c->at - began;
        if (!read_text(c, &spans[i].key, &spans[i].key_length)) {
            *c = key;
            spans[i].key = NULL;
            if (is_container(c) || skip_value(c) != SKIMMED)
                return SKIM_BROKEN;
        } else if (!is_utf8((const uint8_t *)spans[i].key, (size_t)spans[i].key_length))
            return SKIM_BROKEN;
        spans[i].begins = c->at - began;
        int state = skip_value(c);
        if (state != SKIMMED)
            return state;
        spans[i].ends = c->at - began;
        *found = (int)i + 1;
    }
    return c->at == c->end ? SKIMMED : SKIM_BROKEN;
}

/* The key of a span: its text, or where it lies. Of a text that is no name its beginning. */
static PyObject *
key_of(const Span *span)
{
    if (span->key == NULL)
        return Py_BuildValue("(nn)", span->key_begins, span->begins);
    Py_ssize_t length = span->key_length;
    if (length > SKIM_KEY_BYTES_MAX)
        return PyUnicode_DecodeUTF8(span->key, SKIM_KEY_BYTES_MAX, "ignore");
    return PyUnicode_DecodeUTF8(span->key, length, NULL);
}

static PyObject *
swift_skim(PyObject *module, PyObject *map)
{
    (void)module;
    Py_buffer bytes;
    if (PyObject_GetBuffer(map, &bytes, PyBUF_SIMPLE) < 0)
        return NULL;
    Span spans[SKIM_KEYS_MAX];
    Cursor c = {bytes.buf, NULL};
    c.end = c.at + bytes.len;
    int state, count;
    if (bytes.len < SKIM_BYTES_MIN)
        state = skim(&c, spans, &count);
    else {
        Py_BEGIN_ALLOW_THREADS
        state = skim(&c, spans, &count);
        Py_END_ALLOW_THREADS
    }
    PyObject *found = PyDict_New();
    for (int i = 0; found != NULL && i < count; i++) {
        PyObject *key = key_of(&spans[i]);
        PyObject *place = Py_BuildValue("(nn)", spans[i].begins, spans[i].ends);
        if (key == NULL || place == NULL || PyDict_SetItem(found, key, place) < 0)
            Py_CLEAR(found);
        Py_XDECREF(key);
        Py_XDECREF(place);
    }
    PyBuffer_Release(&bytes);
    return found == NULL ? NULL : Py_BuildValue("(Ni)", found, state);
}

/* None: it is no list of at most so many items, or something stands behind it. */
static PyObject *
swift_skim_list(PyObject *module, PyObject *args)
{
    (void)module;
    Py_buffer bytes;
    Py_ssize_t most;
    if (!PyArg_ParseTuple(args, "y*n:skim_list", &bytes, &most))
        return NULL;
    Cursor c = {bytes.buf, NULL};
    const uint8_t *began = c.at;
    c.end = c.at + bytes.len;
    uint64_t count;
    Py_ssize_t *ends = NULL;
    int sound = read_count(&c, 0x90, 0xDC, &count) && most >= 0 && count <= (uint64_t)most;
    Py_ssize_t first = c.at - began;
    if (sound && (ends = PyMem_Malloc(((size_t)count + 1) * sizeof *ends)) == NULL) {
        PyBuffer_Release(&bytes);
        return PyErr_NoMemory();
    }
    Py_BEGIN_ALLOW_THREADS
    for (uint64_t i = 0; sound && i < count; i++) {
        sound = skip_value(&c) == SKIMMED;
        ends[i] = c.at - began;
    }
    Py_END_ALLOW_THREADS
    sound = sound && c.at == c.end;
    PyObject *found = sound ? PyList_New((Py_ssize_t)count) : Py_NewRef(Py_None);
    for (Py_ssize_t i = 0; sound && found != NULL && i < (Py_ssize_t)count; i++) {
        PyObject *place = Py_BuildValue("(nn)", i ? ends[i - 1] : first, ends[i]);
        if (place == NULL)
            Py_CLEAR(found);
        else
            PyList_SET_ITEM(found, i, place);
    }
    PyMem_Free(ends);
    PyBuffer_Release(&bytes);
    return found;
}

/* -- the module --------------------------------------------------------------------------------------------- */

/* From a dict of names and their numbers, or of numbers and their names. */
static int
take_names(PyObject *names, Name *into, int most)
{
    PyObject *name, *number;
    Py_ssize_t position = 0;
    int known = 0;
    while (PyDict_Next(names, &position, &name, &number)) {
        if (known == most) {
            PyErr_SetString(PyExc_ValueError, "too many names");
            return -1;
        }
        if (PyLong_Check(name)) {
            PyObject *first = name;
            name = number;
            number = first;
        }
        into[known].text = PyUnicode_AsUTF8AndSize(name, &into[known].length);
        into[known].number = PyLong_AsLong(number);
        if (into[known].text == NULL || PyErr_Occurred() || into[known].number < 0 ||
            into[known].number >= CODES_MAX || into[known].length > 64) {
            if (!PyErr_Occurred())
                PyErr_SetString(PyExc_ValueError, "not a name and its number");
            return -1;
        }
        known++;
    }
    return known;
}

static PyObject *
swift_setup(PyObject *module, PyObject *args, PyObject *keywords)
{
    (void)module;
    static char *known[] = {
        "draft", "written", "session", "run", "open_status", "tape_entries_max", "sha256", "kinds", "actors", "codes", "model_token", "ends", "frame_bytes_max",
        "payload_bytes_max", "events_max", "depth_max", "id_bytes_max", "time_ms_max",
        "budget_ms_max", "own_sha", NULL};
    PyObject *draft, *written, *session, *run, *status, *sha, *kind_names, *actor_names, *names_by_code;
    unsigned long long time_max, budget_max;
    int own_sha;
    Name all[CODES_MAX];
    if (!PyArg_ParseTupleAndKeywords(
            args, keywords, "$O!O!O!O!OlOO!O!O!l(ll)nnnnnKKp:setup", known, &PyType_Type, &draft,
            &PyType_Type, &written, &PyType_Type, &session, &PyType_Type, &run, &status,
            &tape_entries_max, &sha,
            &PyDict_Type, &kind_names, &PyDict_Type, &actor_names, &PyDict_Type, &names_by_code,
            &model_token, &ends_low, &ends_high, &frame_bytes_max, &payload_bytes_max, &events_max,
            &depth_max, &id_bytes_max, &time_max, &budget_max, &own_sha))
        return NULL;
    time_ms_max = time_max;
    budget_ms_max = budget_max;
    if (!PyType_IsSubtype((PyTypeObject *)draft, &PyTuple_Type) ||
        !PyType_IsSubtype((PyTypeObject *)written, &PyTuple_Type) ||
        !PyType_IsSubtype((PyTypeObject *)session, &PyTuple_Type) ||
        !PyType_IsSubtype((PyTypeObject *)run, &PyTuple_Type) || events_max > 1024 ||
        depth_max > 256 || id_bytes_max > 256) {
        PyErr_SetString(PyExc_ValueError, "a limit is beyond what this was compiled for");
        return NULL;
    }
    PyObject *keep = Py_BuildValue("(OOO)", kind_names, actor_names, names_by_code);
    if (keep == NULL)
        return NULL;
    Py_XSETREF(kept_names, keep); /* their texts are pointed at below */
    memset(codes, 0, sizeof codes);
    if ((kinds_known = take_names(kind_names, kinds, NAMES_MAX)) < 0 ||
        (actors_known = take_names(actor_names, actors, NAMES_MAX)) < 0)
        return NULL;
    code_names = names_by_code;
    int all_known = take_names(code_names, all, CODES_MAX);
    if (all_known < 0)
        return NULL;
    for (int i = 0; i < all_known; i++)
        codes[all[i].number] = all[i];
#ifdef SHA_NI
    has_sha = own_sha && find_sha();
#else
    (void)own_sha;
#endif
    Py_INCREF(sha);
    Py_XSETREF(sha256_call, sha);
    Py_INCREF(draft);
    Py_XSETREF(draft_type, (PyTypeObject *)draft);
    Py_INCREF(written);
    Py_XSETREF(written_type, (PyTypeObject *)written);
    Py_INCREF(session);
    Py_XSETREF(session_type, (PyTypeObject *)session);
    Py_INCREF(run);
    Py_XSETREF(run_type, (PyTypeObject *)run);
    Py_INCREF(status);
    Py_XSETREF(open_status, status);
    Py_RETURN_NONE;
}

static PyMethodDef methods[] = {
    {"setup", (PyCFunction)(void (*)(void))swift_setup, METH_VARARGS | METH_KEYWORDS, NULL},
    {"read_append", swift_read_append, METH_O, NULL},
    {"go_on", (PyCFunction)(void (*)(void))swift_go_on, METH_FASTCALL, NULL},
    {"chain_rows", swift_chain_rows, METH_VARARGS, NULL},
    {"encode_results", swift_encode_results, METH_VARARGS, NULL},
    {"encode_ok", swift_encode_ok, METH_VARARGS, NULL},
    {"skim", swift_skim, METH_O, NULL},
    {"skim_list", swift_skim_list, METH_VARARGS, NULL},
    {NULL, NULL, 0, NULL}};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT, .m_name = "_swift", .m_size = -1, .m_methods = methods};

PyMODINIT_FUNC
PyInit__swift(void)
{
    know_sizes();
    memset(digit_of, 0x80, sizeof digit_of);
    for (int i = 0; i < 32; i++)
        digit_of[(uint8_t)DIGITS[i]] = (uint8_t)i;
    for (long i = 0; i < CODES_MAX; i++)
        if ((numbers[i] = PyLong_FromLong(i)) == NULL)
            return NULL;
    if ((empty_tuple = PyTuple_New(0)) == NULL)
        return NULL;
    PyObject *module = PyModule_Create(&definition);
    if (module != NULL && PyModule_AddIntConstant(module, "VERSION", VERSION) < 0)
        Py_CLEAR(module);
    return module;
}
