"""Takes reports over HTTP, and prints each in a line. It accepts those that come with the token."""

import hmac
import os
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

EXPECTED = f"Bearer {os.environ['TOKEN']}".encode()
LONGEST = 2**20  # bytes


class Reports(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        body = self.rfile.read(min(int(self.headers["Content-Length"]), LONGEST))
        accepted = hmac.compare_digest(self.headers.get("Authorization", "").encode(), EXPECTED)
        print("accepted" if accepted else "refused", body.decode(errors="replace"), flush=True)
        self.send_response(204 if accepted else 403)
        self.end_headers()


server = ThreadingHTTPServer(("", 8000), Reports)
print("Ready", flush=True)
server.serve_forever()
