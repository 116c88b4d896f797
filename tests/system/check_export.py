"""Checks an export of approvals (NDJSON) with nothing but Python's own library.

    python check_export.py FILE

Records of this engine hold no floats that JSON would write otherwise, so that sorted keys without
spaces are their canonical form (RFC 8785) wherever no key lies beyond the Basic Multilingual Plane.
"""

import hashlib
import json
import sys


def canonical(value: object) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def check(lines: list[bytes]) -> str:
    head, count = "0" * 64, 0
    for number, line in enumerate(lines, 1):
        entry = json.loads(line)
        if "trailer" in entry:
            trailer = entry["trailer"]
            if number != len(lines):
                return f"damaged: line {number}: something follows the trailer"
            if (trailer["count"], trailer["head_hash"]) != (count, head):
                return f"damaged: line {number}: the trailer counts otherwise"
            return f"valid: {count} records, head {head}"
        body = bytes.fromhex(head) + canonical(entry["record"])
        digest = hashlib.sha256(body).hexdigest()
        if entry["prev_hash"] != head or entry["hash"] != digest:
            return f"damaged: line {number}: not on the chain"
        head, count = digest, count + 1
    return "damaged: there is no trailer"


if __name__ == "__main__":
    with open(sys.argv[1], "rb") as file:
        print(check(file.read().splitlines()))  # noqa: T201
