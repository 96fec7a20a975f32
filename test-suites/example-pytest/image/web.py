"""Greets by the variable GREETING, and says by which pod."""

import os
import socket
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Web(BaseHTTPRequestHandler):
    def do_GET(self):
        answers = {"/": os.environ["GREETING"], "/healthz": "ok", "/pod": socket.gethostname()}
        body = answers.get(self.path, "not found").encode()
        self.send_response(200 if self.path in answers else 404)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args):
        pass


ThreadingHTTPServer(("", 8080), Web).serve_forever()
