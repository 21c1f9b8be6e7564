"""As much of S3 as a store needs, for some 100,000 objects, where moto is too slow: it sorts all keys for every page.

python benchmarks/lib/small_s3.py FILLING DELAY: serves a bucket with the objects in the JSON file FILLING, every
request DELAY seconds late, and prints its port. FILLING has ``template`` (key below a run -> base64) and ``runs`` (name
-> key -> base64 in place of the template's). GET /counts tells the requests by kind since the last such call.
"""

from __future__ import annotations

import base64
import hashlib
import json
import sys
import threading
import time
from bisect import bisect_left, bisect_right, insort
from collections import Counter
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit
from xml.etree import ElementTree
from xml.sax.saxutils import escape

PAGE = 1000
_lock = threading.Lock()
_contents: dict[str, tuple[bytes, float, str]] = {}
_keys: list[str] = []
_counts: Counter[str] = Counter()
_delay = [0.0]


def put(key: str, data: bytes, date: float) -> str:
    """Write an object; returns its e-tag."""
    tag = hashlib.md5(data, usedforsecurity=False).hexdigest()
    if key not in _contents:
        insort(_keys, key)
    _contents[key] = (data, date, tag)
    return tag


class Handler(BaseHTTPRequestHandler):
    """Answers one connection."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def log_message(self, *_: object) -> None:
        """Be silent."""

    def _answer(self, status: int, body: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _asked(self, kind: str) -> tuple[str, dict[str, list[str]], bytes]:
        parts = urlsplit(self.path)
        data = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        query = parse_qs(parts.query, keep_blank_values=True)
        _counts["LIST" if kind == "GET" and "list-type" in query else kind] += 1
        time.sleep(_delay[0])
        return unquote(parts.path).removeprefix("/bucket").lstrip("/"), query, data

    def do_PUT(self) -> None:
        """Write; only if there is none with If-None-Match."""
        key, _, data = self._asked("PUT")
        with _lock:
            if self.headers.get("If-None-Match") and key in _contents:
                return self._answer(412)
            tag = put(key, data, time.time())
        return self._answer(200, ETag=f'"{tag}"')

    def do_HEAD(self) -> None:
        """What there is of an object."""
        self._read("HEAD")

    def do_GET(self) -> None:
        """An object, a page of a listing, or the counts."""
        if self.path == "/counts":
            counts = json.dumps(_counts).encode()
            _counts.clear()
            return self._answer(200, counts)
        return self._read("GET")

    def _read(self, kind: str) -> None:
        key, query, _ = self._asked(kind)
        if "list-type" in query:
            return self._list({name: values[0] for name, values in query.items()})
        if key not in _contents:
            return self._answer(404, b"<Error><Code>NoSuchKey</Code></Error>")
        data, date, tag = _contents[key]
        about = {"ETag": f'"{tag}"', "Last_Modified": formatdate(date, usegmt=True)}
        return self._answer(200, data, **about)

    def _list(self, query: dict[str, str]) -> None:
        prefix, delimiter = query.get("prefix", ""), query.get("delimiter", "")
        after = query.get("continuation-token") or query.get("start-after", "")
        found: list[str] = []
        more = ""
        with _lock:
            place = max(bisect_left(_keys, prefix), bisect_right(_keys, after))
            while place < len(_keys) and (key := _keys[place]).startswith(prefix):
                if len(found) == PAGE:
                    more = after
                    break
                inner, cut, _ = key[len(prefix) :].partition(delimiter) if delimiter else ("", "", "")
                if cut:
                    folder = prefix + inner + delimiter
                    found.append(f"<CommonPrefixes><Prefix>{escape(folder)}</Prefix></CommonPrefixes>")
                    after = folder + "\U0010ffff"
                    place = bisect_right(_keys, after)
                    continue
                data, date, tag = _contents[key]
                when = time.strftime("%Y-%m-%dT%H:%M:%S.000Z", time.gmtime(date))
                found.append(
                    f"<Contents><Key>{escape(key)}</Key><LastModified>{when}</LastModified><ETag>&quot;{tag}&quot;</ETag>"
                    f"<Size>{len(data)}</Size></Contents>"
                )
                after = key
                place += 1
        token = f"<NextContinuationToken>{escape(more)}</NextContinuationToken>" if more else ""
        start = f"<ListBucketResult><IsTruncated>{'true' if more else 'false'}</IsTruncated>{token}"
        self._answer(200, (start + "".join(found) + "</ListBucketResult>").encode(), Content_Type="application/xml")

    def do_DELETE(self) -> None:
        """Remove an object."""
        key, _, _ = self._asked("DELETE")
        _remove([key])
        self._answer(204)

    def do_POST(self) -> None:
        """Remove several objects."""
        _, _, data = self._asked("POST")
        keys = [found.text or "" for found in ElementTree.fromstring(data).iter() if found.tag.endswith("Key")]
        _remove(keys)
        gone = "".join(f"<Deleted><Key>{escape(key)}</Key></Deleted>" for key in keys)
        self._answer(200, f"<DeleteResult>{gone}</DeleteResult>".encode())


def _remove(keys: list[str]) -> None:
    with _lock:
        for key in keys:
            if _contents.pop(key, None):
                del _keys[bisect_left(_keys, key)]


def main() -> None:
    """Fill the bucket, and serve."""
    filling = json.loads(Path(sys.argv[1]).read_text())
    date = time.time() - 86400

    def made(found: dict[str, str]) -> dict[str, tuple[bytes, float, str]]:
        data = {key: base64.b64decode(each) for key, each in found.items()}
        return {key: (each, date, hashlib.md5(each, usedforsecurity=False).hexdigest()) for key, each in data.items()}

    template = made(filling["template"])
    for name, own in filling["runs"].items():
        _contents.update({f"many/runs/{name}/{key}": each for key, each in (template | made(own)).items()})
    _keys.extend(sorted(_contents))
    _delay[0] = float(sys.argv[2])
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    print(server.server_address[1], flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
