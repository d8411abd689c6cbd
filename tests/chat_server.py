"""A server on this machine that speaks chat completions as the test wishes."""

import base64
import io
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from PIL import Image


class Server:
    """Speaks chat completions; what it answers is for the test to say."""

    def __init__(self):
        self.asked = []
        self.answer = lambda pictures, prompt: "VERDICT: TIE"
        self.status = []
        self.models = ["eye-1"]
        self.keys = set()
        self.logprobs = None
        self._lock = threading.Lock()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *_):
                pass

            def _send(self, status, body, **headers):
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name.replace("_", "-"), value)
                data = body if isinstance(body, bytes) else json.dumps(body).encode()
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def do_GET(self):
                self._send(200, {"data": [{"id": name} for name in outer.models]})

            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with outer._lock:
                    outer.asked.append(body)
                    outer.keys.add(self.headers.get("Authorization"))
                    status = outer.status.pop(0) if outer.status else 200
                if status == "garbage":
                    self._send(200, b"<html>")
                elif status != 200:
                    self._send(status, {"error": "no"}, Retry_After="0")
                else:
                    content = body["messages"][1]["content"]
                    text = next(part["text"] for part in content if part["type"] == "text")
                    answer = outer.answer(pictures(content), text.removeprefix("Prompt: "))
                    choice = {"message": {"content": answer}}
                    if body.get("logprobs") and outer.logprobs is not None:
                        choice["logprobs"] = {"content": [{"top_logprobs": outer.logprobs}]}
                    self._send(200, {"choices": [choice]})

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/v1"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        self._thread.start()

    def close(self):
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def pictures(content):
    urls = [part["image_url"]["url"] for part in content if part["type"] == "image_url"]
    return [
        Image.open(io.BytesIO(base64.b64decode(url.removeprefix("data:image/png;base64,"))))
        for url in urls
    ]
