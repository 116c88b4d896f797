/* MessagePack as it is put together in C, and the `ok` of an append. */
#ifndef PALYRA_SWIFT_REPLY_H
#define PALYRA_SWIFT_REPLY_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <stdint.h>
#include <string.h>

static inline uint8_t *
put_wide(uint8_t *to, uint8_t head, uint64_t value, int width)
{
    *to++ = head;
    for (int i = width - 1; i >= 0; i--)
        *to++ = (uint8_t)(value >> (8 * i));
    return to;
}

static inline uint8_t *
put_uint(uint8_t *to, uint64_t value)
{
    if (value < 0x80) {
        *to++ = (uint8_t)value;
        return to;
    }
    if (value <= 0xFF)
        return put_wide(to, 0xCC, value, 1);
    if (value <= 0xFFFF)
        return put_wide(to, 0xCD, value, 2);
    if (value <= 0xFFFFFFFFULL)
        return put_wide(to, 0xCE, value, 4);
    return put_wide(to, 0xCF, value, 8);
}

static inline uint8_t *
put_raw(uint8_t *to, const void *from, Py_ssize_t length)
{
    memcpy(to, from, (size_t)length);
    return to + length;
}

static inline uint8_t *
put_text_head(uint8_t *to, Py_ssize_t length)
{
    if (length < 32) {
        *to++ = (uint8_t)(0xA0 | length);
        return to;
    }
    if (length <= 0xFF)
        return put_wide(to, 0xD9, (uint64_t)length, 1);
    return put_wide(to, 0xDA, (uint64_t)length, 2);
}

static inline uint8_t *
put_text(uint8_t *to, const uint8_t *end, PyObject *text)
{
    Py_ssize_t length;
    const char *utf8 = PyUnicode_AsUTF8AndSize(text, &length);
    if (utf8 == NULL)
        return NULL;
    if (length > 0xFFFF || end - to < length + 3) {
        PyErr_SetString(PyExc_ValueError, "a text of a link is too long");
        return NULL;
    }
    return put_raw(put_text_head(to, length), utf8, length);
}

static inline uint8_t *
put_float(uint8_t *to, double value)
{
    uint64_t bits;
    memcpy(&bits, &value, 8);
    return put_wide(to, 0xCB, bits, 8);
}

/* The twin of `wire.append.encode_ok_plainly`. */
static inline PyObject *
ok_of_append(PyObject *request_id, PyObject *results, double queued_ms, double commit_ms,
             double total_ms, int within)
{
    static const char V_ID[] = "\x83\xa1v\x01\xa2id", OK[] = "\xa2ok\x82\xa7results";
    static const char QUEUED[] = "\xa6timing\x84\xa9queued_ms", COMMIT[] = "\xa9" "commit_ms";
    static const char TOTAL[] = "\xa8total_ms", WITHIN[] = "\xadwithin_budget";
    uint8_t id[512], *id_end = id;
    if (PyLong_CheckExact(request_id)) {
        uint64_t number = PyLong_AsUnsignedLongLong(request_id);
        if (PyErr_Occurred())
            return NULL;
        id_end = put_uint(id, number);
    } else {
        id_end = put_text(id, id + sizeof id, request_id);
        if (id_end == NULL)
            return NULL;
    }
    Py_ssize_t size = sizeof V_ID + sizeof OK + sizeof QUEUED + sizeof COMMIT + sizeof TOTAL +
                      sizeof WITHIN - 6 + (id_end - id) + PyBytes_GET_SIZE(results) + 3 * 9 + 1;
    PyObject *made = PyBytes_FromStringAndSize(NULL, size);
    if (made == NULL)
        return NULL;
    uint8_t *to = (uint8_t *)PyBytes_AS_STRING(made);
    to = put_raw(to, V_ID, sizeof V_ID - 1);
    to = put_raw(to, id, id_end - id);
    to = put_raw(to, OK, sizeof OK - 1);
    to = put_raw(to, PyBytes_AS_STRING(results), PyBytes_GET_SIZE(results));
    to = put_float(put_raw(to, QUEUED, sizeof QUEUED - 1), queued_ms);
    to = put_float(put_raw(to, COMMIT, sizeof COMMIT - 1), commit_ms);
    to = put_float(put_raw(to, TOTAL, sizeof TOTAL - 1), total_ms);
    to = put_raw(to, WITHIN, sizeof WITHIN - 1);
    *to = within ? 0xC3 : 0xC2;
    return made;
}

#endif
