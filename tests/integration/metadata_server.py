"""The metadata address of an EC2 machine (IMDSv2), on a host: ``python metadata_server.py FOLDER INSTANCE PROFILE``.

It has the credentials of the machine's profile, if it has one, and tells the notice that stands in
``FOLDER/notice-INSTANCE``.
"""

from __future__ import annotations

import json
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

TOKEN = "of-this-machine"
CREDENTIALS = "/latest/meta-data/iam/security-credentials/"


class Handler(BaseHTTPRequestHandler):
    def do_PUT(self) -> None:
        self.reply(TOKEN if self.path == "/latest/api/token" else None)

    def do_GET(self) -> None:
        if self.headers.get("X-aws-ec2-metadata-token") != TOKEN:
            self.send_error(401)
            return
        notice = folder / f"notice-{instance}"
        if self.path == "/latest/meta-data/spot/instance-action" and notice.exists():
            self.reply(notice.read_text())
        elif self.path == CREDENTIALS and profile:
            self.reply(profile)
        elif self.path == CREDENTIALS + profile and profile:
            end = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + 21_600))
            keys = {"AccessKeyId": f"ASIA{profile.upper()}", "SecretAccessKey": "secret", "Token": "token"}
            self.reply(json.dumps({"Code": "Success", "Type": "AWS-HMAC", "Expiration": end, **keys}))
        else:
            self.reply(None)

    def reply(self, text: str | None) -> None:
        if text is None:
            self.send_error(404)
            return
        self.send_response(200)
        self.send_header("X-aws-ec2-metadata-token-ttl-seconds", "21600")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, *_: object) -> None:
        pass


if __name__ == "__main__":
    folder, instance, profile = Path(sys.argv[1]), sys.argv[2], sys.argv[3]
    ThreadingHTTPServer(("169.254.169.254", 80), Handler).serve_forever()
