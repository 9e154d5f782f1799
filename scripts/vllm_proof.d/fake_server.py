"""A server with the answers' shape, to rehearse serve_part without a GPU.

usage: fake_server.py PORT FAKE_MEMORY_FOLDER
"""
import argparse
import http.server
import json
import sys

from fake_engine import FakeEngine

engine = FakeEngine(argparse.Namespace(fake_elastic=True, fake_memory=sys.argv[2], util=0.9,
                                       kv_bytes=0, name="server"))


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()

    def do_POST(self):
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        engine.burst([asked["prompt"]], asked["max_tokens"], False)
        self.send_response(200)
        self.end_headers()
        for _ in range(asked["max_tokens"]):
            self.wfile.write(b'data: {"choices": [{"text": "x"}]}\n\n')
        self.wfile.write(b"data: [DONE]\n\n")

    def log_message(self, *_):
        pass


class Server(http.server.ThreadingHTTPServer):
    request_queue_size = 64


try:
    Server(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
except KeyboardInterrupt:
    engine.close()
