"""Checks an export of approvals (NDJSON) with nothing but Python's own library.

    python check_export.py FILE

Ends with 0 where it is valid, with 1 where it is not. A line is canonical JSON, its keys in their
order, so that the record is what stands between `"record":` and the last brace: those bytes are
hashed as they are, and nobody has to write numbers and keys again as RFC 8785 does.
"""

import hashlib
import json
import re
import sys

LINE = re.compile(rb'\{"hash":"([0-9a-f]{64})","prev_hash":"([0-9a-f]{64})","record":(\{.*\})\}')


def check(lines: list[bytes]) -> str:
    head, count = "0" * 64, 0
    for number, line in enumerate(lines, 1):
        if line.startswith(b'{"trailer":'):
            trailer = json.loads(line)["trailer"]
            if number != len(lines):
                return f"damaged: line {number}: something follows the trailer"
            if (trailer["count"], trailer["head_hash"]) != (count, head):
                return f"damaged: line {number}: the trailer counts otherwise"
            return f"valid: {count} records, head {head}"
        found = LINE.fullmatch(line)
        if found is None:
            return f"damaged: line {number}: neither a record nor the trailer"
        json.loads(found[3])
        digest = hashlib.sha256(bytes.fromhex(head) + found[3]).hexdigest()
        if (found[2].decode(), found[1].decode()) != (head, digest):
            return f"damaged: line {number}: not on the chain"
        head, count = digest, count + 1
    return "damaged: there is no trailer"


if __name__ == "__main__":
    with open(sys.argv[1], "rb") as file:
        try:
            told = check(file.read().splitlines())
        except (KeyError, ValueError, RecursionError) as error:
            told = f"damaged: no JSON that could be checked: {error}"
    print(told)  # noqa: T201
    sys.exit(0 if told.startswith("valid:") else 1)
